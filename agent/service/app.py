"""The HTTP API over `agent.runs`. Built by a call; bound to loopback unless a token is set."""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, Literal, Self

import anyio.to_thread
from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import Field, model_validator
from sse_starlette import EventSourceResponse

from agent.faults import fault_text, place_of
from agent.report import Report
from agent.runs import Busy, Runs
from agent.service.events import stream_events
from agent.service.limits import BodyLimit
from agent.settings import Settings, SettingsError
from agent.simulation import SimulateRequest, SimulateResult, run_simulation
from agent.state import PolicyName, RunRequest
from agent.store import RunBusy, RunNotFound, RunRow, UnreadableRun
from tools.task import Budget, Frozen, Target
from tools.task_errors import RequestError

_SIMULATIONS = 2
"""Kernels simulated at once; others wait."""

log = logging.getLogger("kernelwright.service")


class RunBody(Frozen):
    """A request for a run: the command line's fields."""

    request: str = Field(default="", max_length=20_000)
    """Words: operation, shapes, type, target, goal. With a reference: shapes, type, target, goal."""
    reference_source: str | None = Field(default=None, max_length=200_000)
    """Python source of a NumPy function that is the specification."""
    reference_function: str | None = Field(default=None, max_length=200)
    """Name of that function."""
    goal: str | None = Field(default=None, max_length=200)
    """`roofline>=0.6`, `latency<=120us`, `speedup>=2` or `correct`."""
    target: Target | None = None
    policy: PolicyName = "auto"
    model: str | None = Field(default=None, max_length=200)
    attempts: int | None = Field(default=None, ge=1, le=10_000)
    seconds: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, ge=0)
    dollars: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _makes_a_request(self) -> Self:
        self.to_request()
        return self

    def to_request(self) -> RunRequest:
        """The same for `agent.runs`."""
        fields = self.model_dump(exclude=set(Budget.model_fields))
        given = {name: getattr(self, name) for name in Budget.model_fields if getattr(self, name) is not None}
        return RunRequest(**fields, budget=Budget(**given))


class RunAccepted(Frozen):
    """A run was begun."""

    run_id: str
    url: str
    events: str
    """Where its events are streamed."""


class RunView(Frozen):
    """A run as it stands."""

    run: RunRow
    report: Report | None
    """The final report; of what there is so far while the run goes on; null before its task is known."""


class Health(Frozen):
    """The service answers."""

    status: Literal["ok"] = "ok"
    version: str


class Problem(Frozen):
    """What is wrong, in one sentence."""

    detail: str


Responses = dict[int | str, dict[str, Any]]

_BAD: Responses = {422: {"model": Problem, "description": "Bad input: one sentence."}}
_MISSING: Responses = {404: {"model": Problem, "description": "No such run."}}
_BUSY: Responses = {429: {"model": Problem, "description": "Too many runs wait."}}
_SSE: Responses = {200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}}


def build_app(settings: Settings, runs: Runs | None = None) -> FastAPI:
    """The service.

    Args:
        settings: data directory, token, limits.
        runs: given by tests; otherwise opened at start-up and closed at shut-down.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.runs = runs or Runs(settings)
        yield
        if runs is None:
            await anyio.to_thread.run_sync(app.state.runs.close)

    app = FastAPI(
        title="Kernelwright",
        version=version("kernelwright"),
        summary="Words in; a verified, profiled, fast NKI kernel out. All latencies are simulated.",
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, limit=settings.max_request_bytes)
    _add_errors(app)
    _add_routes(app, _guard(settings))
    return app


_BEARER = HTTPBearer(auto_error=False, description="KERNELWRIGHT_TOKEN, when the service has one.")


def _guard(settings: Settings) -> Callable[..., None]:
    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if settings.token is None:
            return
        wanted = settings.token.get_secret_value().encode()
        if given is None or not hmac.compare_digest(given.credentials.encode(), wanted):
            raise HTTPException(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})

    return check


def _runs(request: Request) -> Runs:
    found: Runs = request.app.state.runs
    return found


RunsHere = Annotated[Runs, Depends(_runs)]
RunId = Annotated[str, Path(max_length=64, pattern=r"^[0-9a-z-]+$")]


def _add_routes(app: FastAPI, guard: Callable[..., None]) -> None:
    guarded = [Depends(guard)]
    simulations = threading.BoundedSemaphore(_SIMULATIONS)

    @app.get("/healthz")
    def healthz() -> Health:
        """Whether the service answers."""
        return Health(version=version("kernelwright"))

    @app.post("/v1/runs", status_code=202, responses=_BAD | _BUSY, dependencies=guarded)
    def create_run(asked: RunBody, runs: RunsHere, response: Response) -> RunAccepted:
        """Begin a run. A request that can't be understood is refused here when no model is needed to see it."""
        run_id = runs.start(asked.to_request())
        runs.wait_for_task(run_id)
        url = f"/v1/runs/{run_id}"
        response.headers["Location"] = url
        return RunAccepted(run_id=run_id, url=url, events=f"{url}/events")

    @app.post("/v1/simulate", responses=_BAD, dependencies=guarded)
    def simulate(asked: SimulateRequest) -> SimulateResult:
        """Run and time a kernel; with a reference, judge it. A fault of the kernel is a finding, not an error."""
        with simulations:
            return run_simulation(asked)

    @app.get("/v1/runs", dependencies=guarded)
    def list_runs(runs: RunsHere, limit: int = 50) -> list[RunRow]:
        """The newest runs."""
        return runs.rows(max(1, min(limit, 500)))

    @app.get("/v1/runs/{run_id}", responses=_MISSING, dependencies=guarded)
    def read_run(run_id: RunId, runs: RunsHere) -> RunView:
        """A run as it stands."""
        row = runs.row(run_id)
        return RunView(run=row, report=runs.report(run_id))

    @app.post("/v1/runs/{run_id}/cancel", status_code=202, responses=_MISSING, dependencies=guarded)
    def cancel_run(run_id: RunId, runs: RunsHere) -> RunRow:
        """Ask a run to stop; it reports its best kernel. Asked twice, its present step is abandoned."""
        runs.cancel(run_id)
        return runs.row(run_id)

    @app.post("/v1/runs/{run_id}/resume", status_code=202, responses=_MISSING | _BAD, dependencies=guarded)
    def resume_run(run_id: RunId, runs: RunsHere) -> RunAccepted:
        """Go on with an interrupted run."""
        runs.resume(run_id)
        return RunAccepted(run_id=run_id, url=f"/v1/runs/{run_id}", events=f"/v1/runs/{run_id}/events")

    @app.get(
        "/v1/runs/{run_id}/events",
        response_class=EventSourceResponse,
        responses=_MISSING | _SSE,
        dependencies=guarded,
    )
    async def run_events(
        run_id: RunId, runs: RunsHere, last_event_id: Annotated[int, Header(ge=0)] = 0
    ) -> EventSourceResponse:
        """The run's events from its beginning, or after `Last-Event-ID`; ends when the run does."""
        await anyio.to_thread.run_sync(runs.row, run_id)
        return EventSourceResponse(stream_events(runs, run_id, last_event_id))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, fault_sentence(error))

    @app.exception_handler(RequestError)
    async def bad_request(request: Request, error: RequestError) -> JSONResponse:
        return _problem(422, str(error))

    @app.exception_handler(SettingsError)
    async def bad_settings(request: Request, error: SettingsError) -> JSONResponse:
        return _problem(422, str(error))

    @app.exception_handler(RunNotFound)
    async def not_found(request: Request, error: RunNotFound) -> JSONResponse:
        return _problem(404, f"there is no run {request.path_params.get('run_id', '')!r}")

    @app.exception_handler(UnreadableRun)
    async def unreadable(request: Request, error: UnreadableRun) -> JSONResponse:
        return _problem(409, str(error))

    @app.exception_handler(RunBusy)
    async def busy(request: Request, error: RunBusy) -> JSONResponse:
        return _problem(409, str(error))

    @app.exception_handler(Busy)
    async def too_many(request: Request, error: Busy) -> JSONResponse:
        return _problem(429, str(error))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        log.error("fault in %s %s", request.method, request.url.path, exc_info=error)
        return _problem(500, f"fault of Kernelwright: {type(error).__name__}; the service's log says more")


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse(Problem(detail=detail).model_dump(), status)


_EXAMPLES = {"inputs": ', e.g. [{"name": "x", "shape": [512, 1024], "dtype": "bfloat16"}]'}


def fault_sentence(error: RequestValidationError) -> str:
    """The first fault of a body, path or header in one sentence."""
    first = error.errors()[0]
    place = place_of(first["loc"][1:])
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']}"
    if first["type"] == "literal_error":
        return f"{place} {first['input']!r} isn't known; use {first['ctx']['expected']}"
    if first["type"] == "extra_forbidden":
        return f"there is no field {place!r}; see /docs for the fields"
    example = _EXAMPLES.get(place, "")
    return f"{place or 'the body'}: {fault_text(first)}{example}"
