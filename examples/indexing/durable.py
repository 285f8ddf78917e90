"""Documents over HTTP: have them indexed, and search in them.

PUT /jobs/j-1         ["/usr/share/man/man1/ls.1.gz", …]    is answered when they are: {"indexed": 1, "failed": {}}
GET /search?q=…       [{"location": …, "text": …, "near": 0.7}, …]
"""

from os import environ

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.indexing.index import Report, create, index_document, search
from kompensate.orchestrator import Application, Context, Limit, async_client, saga

AT_ONCE = 2


@saga("index")
async def index(ctx: Context, locations: list[str]) -> Report:
    """Index them, and say which could not be."""
    ends = await ctx.gather(*(ctx.run(index_document, one, limit="docs") for one in locations), tolerate=len(locations))
    return Report.of(locations, ends)


async def put_job(request: Request) -> JSONResponse:
    locations = await request.json()
    report = (await client.execute("index", locations, saga_id=request.path_params["job"], timeout=3600)).result
    return JSONResponse(report)


async def get_search(request: Request) -> JSONResponse:
    return JSONResponse(await run_in_threadpool(search, request.query_params["q"]))


application = Application("documents", [index], limits={"docs": Limit(AT_ONCE)})
web = Starlette(routes=[Route("/jobs/{job}", put_job, methods=["PUT"]), Route("/search", get_search)])

if __name__ == "__main__":
    create()
    client = async_client.AsyncClient(environ["KOMPENSATE_BOOTSTRAP"], "documents", prefix=environ["KOMPENSATE_PREFIX"])
    uvicorn.run(web, host="127.0.0.1", port=int(environ["PORT"]), log_level="warning")
