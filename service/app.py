"""The composition root of the API process: builds every part once, top to bottom. Knows no route's insides."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

import rootstock
from rootstock import aliases as named
from rootstock import keys
from rootstock.bell import Bell
from rootstock.db import Database
from rootstock.inspection import Inspector
from rootstock.profiling import Profiler
from rootstock.settings import Settings
from rootstock.storage import open_store
from rootstock.sweep import Sweep
from service import (
    advice,
    aliases,
    batches,
    completions,
    distillations,
    errors,
    estimates,
    eval_runs,
    evals,
    evidence,
    exports,
    file_reports,
    files,
    graders,
    health,
    inference,
    job_reports,
    jobs,
    models,
    permissions,
    policy,
    releases,
    responses,
    suites,
    upgrades,
    uploads,
    usage,
    watches,
    webhooks,
)
from service.deps import Direct, Parts
from service.document import document, operation_id
from service.headers import Envelope
from service.hooks import Sender
from service.limits import Limits
from service.meter import Meter
from service.outbound import Outbound, networks
from service.reconciler import Reconciler
from service.replicas import Upstream
from service.sampling import Sampler
from service.upgrading.stepping import Stepper

DESCRIPTION = "The OpenAI fine-tuning API on your own GPUs. Use it with the official SDKs: only `base_url` changes."


class _App(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """As FastAPI does, without the outermost one, Starlette's last resort: `Envelope` is ours."""
        outermost = super().build_middleware_stack()
        assert isinstance(outermost, ServerErrorMiddleware)
        return outermost.app


def create_app(settings: Settings) -> FastAPI:
    """The API for these settings; the schema must be migrated before it starts.

    Example: `uvicorn.run(create_app(Settings.from_env()))`.
    """
    database = Database(settings.effective_database_url)
    store = open_store(settings)
    bell = Bell(settings.effective_redis_url)
    sweep = Sweep(database, store, bell, settings)

    def pinned(base: str) -> list[str]:
        with database.read() as tx:
            return named.pinned_adapters(tx, base)

    upstream = Upstream(settings, pinned=pinned)
    limits = Limits(settings, settings.effective_redis_url)
    outbound = Outbound(networks(settings.webhook_allowed_networks))
    inspector = Inspector(database, store, settings)
    meter = Meter(database)
    sampler = Sampler(database)
    profiler = Profiler(database, store, settings)
    chores = {
        "webhooks": Sender(database, outbound).run_once,
        "inspect": inspector.run_once,
        "usage": meter.flush,
        "upgrades": Stepper(database, settings, sweep, upstream.most_rank).run_once,
        "watch": sampler.run_once,
        "profile": profiler.run_once,
    }
    reconciler = Reconciler(database, sweep, store, settings, more=chores)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with database.transaction() as tx:
            keys.ensure_default_project(tx, settings.organization)
        reconciler.start()
        try:
            yield
        finally:
            app.state.parts.python.close()
            app.state.parts.workers.close()
            inspector.stop()
            profiler.stop()
            reconciler.stop()
            meter.close()
            sampler.close()
            await upstream.aclose()
            await limits.aclose()
            bell.close()
            database.close()

    app = _App(
        title="Rootstock",
        version=rootstock.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.parts = Parts(settings, database, store, bell, sweep, upstream, outbound, limits, meter, sampler)
    tuning = (files, file_reports, uploads, jobs, permissions, graders, models, exports, evidence)
    answering = (aliases, responses, completions, batches, usage, health, policy, suites)
    improving = (advice, distillations, upgrades, estimates, releases, job_reports, watches, evals, eval_runs)
    # What is asked most comes first: routes are looked through in order.
    for part in (inference, *tuning, *answering, *improving):
        app.include_router(part.router)
    app.include_router(responses.refused)
    app.include_router(webhooks.types)
    for prefix in ("/v1/webhook_endpoints", "/v1/rootstock/webhooks"):
        app.include_router(webhooks.router, prefix=prefix)
    errors.install(app)
    direct = [route for route in app.routes if isinstance(route, Direct)]
    app.add_middleware(Envelope, direct={(method, route.path): route for route in direct for method in route.methods})
    app.openapi = lambda: document(app)  # type: ignore[method-assign]  # FastAPI's documented way to change it
    return app
