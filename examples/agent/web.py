"""The agent's HTTP front: ask it something, see what it is about, approve or deny.

POST /tasks                          {"task_id": "t-1", "request": "o-1 arrived broken"}
GET  /tasks/t-1                      {"status": "waits for approval", "question": {"turn": 2, …}, …}
POST /tasks/t-1/approvals/2          {"approved": true, "by": "ann"}
"""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.agent.app import Task, Verdict, app
from examples.common.front import Sagas, body, serve


def routes(sagas: Sagas) -> list[Route]:
    async def ask(request: Request) -> JSONResponse:
        task: Task = await body(request, Task)
        await sagas.start("assistant", task, saga_id=task.task_id)
        return JSONResponse({"task": f"/tasks/{task.task_id}"}, 202)

    async def show(request: Request) -> JSONResponse:
        saga = await sagas.view(request.path_params["task_id"])
        return JSONResponse({**saga.published, "saga": saga.status, "answer": saga.result, "reason": saga.reason})

    async def decide(request: Request) -> JSONResponse:
        task_id, turn = request.path_params["task_id"], request.path_params["turn"]
        verdict: Verdict = await body(request, Verdict)
        await sagas.view(task_id)  # 404 where there is no such task: a signal would be kept for one to come
        # The first verdict on a turn counts: one that comes again, or from somebody else, has the same id.
        sent = await sagas.signal(task_id, f"approval-{turn}", verdict, signal_id=f"{task_id}/{turn}")
        outcome = await sagas.outcome(sent)
        if not outcome.accepted:
            return JSONResponse({"error": f"too late: {outcome.reason}"}, 409)
        return JSONResponse({"task": f"/tasks/{task_id}"}, 202)

    return [
        Route("/tasks", ask, methods=["POST"]),
        Route("/tasks/{task_id}", show),
        Route("/tasks/{task_id}/approvals/{turn:int}", decide, methods=["POST"]),
    ]


if __name__ == "__main__":
    serve(app, routes)
