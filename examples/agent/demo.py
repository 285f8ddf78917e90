"""A refund that a person approves, another that is denied, and a worker that is killed in between.

.venv/bin/python -m examples.agent.demo
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from examples.agent.app import app
from examples.common import demo
from examples.common.asking import ask, ask_until
from examples.common.ground import Ground, Parts


def parts(desk: Path) -> Parts:
    """A worker and the front; the tools' world is in the file `desk`."""
    return Parts(app, "examples.agent.app:app", front="examples.agent.web", environment={"AGENT_DESK": str(desk)})


def ask_agent(ground: Ground, task_id: str, request: str) -> None:
    ask(ground, "/tasks", {"task_id": task_id, "request": request})


def wait_for(ground: Ground, task_id: str, status: str) -> Any:
    """The task, once its published status is that."""
    return ask_until(ground, f"/tasks/{task_id}", lambda task: task.get("status") == status)


def decide(ground: Ground, task_id: str, turn: int, *, approved: bool) -> tuple[int, Any]:
    return ask(ground, f"/tasks/{task_id}/approvals/{turn}", {"approved": approved, "by": "ann"})


def story(ground: Ground) -> None:
    """Two tasks; the worker is killed while the first one waits."""
    print(f"http://127.0.0.1:{ground.port}/tasks/t-1")
    ask_agent(ground, "t-1", "o-1 arrived broken")
    question = wait_for(ground, "t-1", "waits for approval")["question"]
    print(f"t-1 asks: {question['call']}; now the worker is killed, and started again")
    ground.children["worker-1"].kill()
    ground.children["worker-1"].start()
    decide(ground, "t-1", question["turn"], approved=True)
    print(f"t-1: {wait_for(ground, 't-1', 'has answered')['answer']}")
    ask_agent(ground, "t-2", "o-2 arrived broken")
    question = wait_for(ground, "t-2", "waits for approval")["question"]
    decide(ground, "t-2", question["turn"], approved=False)
    print(f"t-2, denied: {wait_for(ground, 't-2', 'has answered')['answer']}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(demo.main("agent", lambda: parts(Path(folder) / "desk.sqlite"), story))
