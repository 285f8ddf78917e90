"""The rules: what a saga's code may not do, by the names it would do it with, and what it uses instead.

A replay runs the code again, on another machine and another day: it has to come to the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """`says` completes "NAME ..."; `instead` is what to do. A hint is told and is no reason to fail."""

    code: str
    says: str
    instead: str
    hint: bool = False


INPUT = "take it into the saga's input, or get it by ctx.run(fn)"
RULES = {
    rule.code: rule
    for rule in (
        Rule("K00", "allows without saying why", "write `# kompensate: allow CODE reason`"),
        Rule("K01", "reads a clock", "use ctx.now()"),
        Rule("K02", "is random", "use ctx.random(), or random.Random(ctx.random())"),
        Rule("K03", "makes another id in each replay", "use ctx.uuid()"),
        Rule("K04", "reads environment or configuration, which the next process may have otherwise", INPUT),
        Rule("K05", "reads or writes files", "do it in ctx.run(fn), or in a service by ctx.call"),
        Rule("K06", "reaches out of the program, again in each replay", "do it in ctx.run(fn), or in a service"),
        Rule("K07", "starts or waits for threads", "use ctx.gather or ctx.select; do work in ctx.run(fn)"),
        Rule(
            "K08", "waits for what is not the saga's", "await only what ctx gives: ctx.sleep, ctx.gather, ctx.receive"
        ),
        Rule("K09", "has an order that differs from process to process", "iterate over sorted(...), or keep a list"),
        Rule("K10", "is shared by all sagas of a process and gone with it", "keep it in a local variable"),
        Rule("K11", "differs from process to process", "compare the values themselves, or use ctx.uuid()"),
        Rule("K12", "is repeated by each replay", "expect it more than once, or do it in ctx.run(fn)", hint=True),
    )
}

MODULES: dict[str, str] = {
    **dict.fromkeys(("time", "arrow", "pendulum"), "K01"),
    **dict.fromkeys(("random", "secrets", "numpy.random"), "K02"),
    **dict.fromkeys(("ulid", "nanoid", "shortuuid"), "K03"),
    **dict.fromkeys(("platform", "configparser", "dotenv", "decouple", "environs", "dynaconf", "locale"), "K04"),
    **dict.fromkeys(("shutil", "tempfile", "glob", "fileinput", "linecache", "shelve", "dbm", "fsspec"), "K05"),
    **dict.fromkeys(("sqlite3", "importlib.resources", "zipfile", "tarfile"), "K05"),
    **dict.fromkeys(("socket", "ssl", "http.client", "urllib.request", "urllib3", "requests", "httpx"), "K06"),
    **dict.fromkeys(("aiohttp", "websockets", "smtplib", "imaplib", "poplib", "ftplib", "xmlrpc.client"), "K06"),
    **dict.fromkeys(("grpc", "boto3", "botocore", "redis", "pymongo", "psycopg", "psycopg2", "asyncpg"), "K06"),
    **dict.fromkeys(("pymysql", "sqlalchemy", "confluent_kafka", "kafka", "aiokafka", "elasticsearch"), "K06"),
    **dict.fromkeys(("openai", "anthropic", "paramiko", "subprocess"), "K06"),
    **dict.fromkeys(("threading", "_thread", "multiprocessing", "concurrent.futures", "queue", "signal"), "K07"),
    **dict.fromkeys(("asyncio", "trio", "anyio", "curio", "gevent", "select", "selectors"), "K08"),
    **dict.fromkeys(("logging", "structlog", "loguru"), "K12"),
}
"""Everything of these modules. What a longer name in NAMES says goes before."""

_PATH_METHODS = (
    *("exists", "is_file", "is_dir", "iterdir", "glob", "rglob", "open", "stat", "mkdir", "rmdir", "unlink", "touch"),
    *("rename", "replace", "resolve", "absolute", "read_text", "read_bytes", "write_text", "write_bytes"),
)
_OS_FILES = (
    *("open", "listdir", "scandir", "walk", "stat", "remove", "unlink", "rename", "replace", "mkdir", "makedirs"),
    *("rmdir", "path.exists", "path.isfile", "path.isdir", "path.getsize", "path.getmtime", "path.realpath"),
)
NAMES: dict[str, str | None] = {
    **dict.fromkeys(("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"), "K01"),
    **dict.fromkeys(("datetime.date.today", "pandas.Timestamp.now", "django.utils.timezone.now"), "K01"),
    **dict.fromkeys(("time.struct_time", "time.strptime", "time.mktime"), None),
    **dict.fromkeys(("pendulum.datetime", "pendulum.duration", "pendulum.parse", "arrow.get"), None),
    "os.urandom": "K02",
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7", "uuid.uuid8", "uuid.getnode"), "K03"),
    **{f"os.{name}": "K04" for name in ("environ", "environb", "getenv", "getenvb", "getpid", "getcwd", "cpu_count")},
    **dict.fromkeys(("sys.argv", "sys.path", "socket.gethostname", "getpass.getuser", "django.conf.settings"), "K04"),
    **dict.fromkeys(("builtins.open", "builtins.input", "io.open", "sys.stdin"), "K05"),
    **{f"os.{name}": "K05" for name in _OS_FILES},
    **{f"pathlib.Path().{name}": "K05" for name in _PATH_METHODS},
    **dict.fromkeys(("pathlib.Path.cwd", "pathlib.Path.home"), "K05"),
    **dict.fromkeys(("os.system", "os.popen", "os.fork", "os.kill"), "K06"),
    "time.sleep": "K08",
    **dict.fromkeys(("builtins.id", "builtins.hash"), "K11"),
    **dict.fromkeys(("builtins.print", "warnings.warn", "sys.stdout", "sys.stderr"), "K12"),
}
"""Single names, and what follows them. `()` stands for what a call gives; None is allowed."""

METHODS = dict.fromkeys(("read_text", "read_bytes", "write_text", "write_bytes"), "K05")
"""Methods that are what they sound like, whatever they are called on."""

FINE_WITH_ARGUMENTS = frozenset(
    {"random.Random", "numpy.random.default_rng", "numpy.random.RandomState", "time.gmtime", "time.ctime"}
)
"""These depend on nothing else once they are given a seed or a time."""


def code_of(name: str, *, called: bool) -> str | None:
    """The rule that `name` breaks: the longest part of it that is known says so.

    A class that is only named (an annotation, an `except`) does nothing yet.
    """
    if not called and name.rpartition(".")[2][:1].isupper():
        return None
    parts = name.replace("()", ".()").split(".")
    for count in range(len(parts), 0, -1):
        part = ".".join(parts[:count]).replace(".()", "()")
        if part in NAMES:
            return NAMES[part]
        if part in MODULES and count < len(parts):
            return MODULES[part]
    return None
