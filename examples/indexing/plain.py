"""Documents over HTTP: have them indexed, and search in them.

PUT /jobs/j-1         ["/usr/share/man/man1/ls.1.gz", …]    is answered when they are: {"indexed": 1, "failed": {}}
GET /search?q=…       [{"location": …, "text": …, "near": 0.7}, …]
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from os import environ

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.indexing.index import Report, create, index_document, search

AT_ONCE = 2


async def index(locations: list[str]) -> Report:
    """Index them, and say which could not be."""
    run = asyncio.get_running_loop().run_in_executor
    ends = await asyncio.gather(*(run(pool, index_document, one) for one in locations), return_exceptions=True)
    return Report.of(locations, ends)


async def put_job(request: Request) -> JSONResponse:
    locations = await request.json()
    report = asdict(await index(locations))
    return JSONResponse(report)


async def get_search(request: Request) -> JSONResponse:
    return JSONResponse(await run_in_threadpool(search, request.query_params["q"]))


pool = ThreadPoolExecutor(AT_ONCE)
web = Starlette(routes=[Route("/jobs/{job}", put_job, methods=["PUT"]), Route("/search", get_search)])

if __name__ == "__main__":
    create()
    uvicorn.run(web, host="127.0.0.1", port=int(environ["PORT"]), log_level="warning")
