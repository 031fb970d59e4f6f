"""The second phase: from the folder to our API. Each thing is sent once, however often the import is killed."""

import filecmp
from collections.abc import Callable
from typing import Any

from rootstock.errors import ImportStopped
from rootstock.files import clean_filename
from rootstock.importing.folder import EVALS, FILES, JOBS, PATHS, RECIPES, REPORT, Folder, State, write_json
from rootstock.importing.plan import Fate, Item, carried_file, plan
from rootstock.importing.recipes import eval_request, recipe
from rootstock.importing.remote import ATTEMPTS, Refused, Remote, Unclear
from rootstock.importing.show import Show

NO_EVALS = "this server has no evals API yet; kept in evals/{id}.json"


class Carrier:
    """Takes what the plan says to the target. Raises `ImportStopped` and `ConfigurationError` from its one method."""

    def __init__(self, target: Remote, folder: Folder, state: State, show: Show, *, run_jobs: bool) -> None:
        self._target = target
        self._folder = folder
        self._state = state
        self._show = show
        self._run_jobs = run_jobs
        self._steps: dict[str, Callable[[Item], None]] = {"file": self._file, "job": self._job, "eval": self._eval}

    def carry(self) -> list[Item]:
        """Do it, write `report.json` and return what became of everything."""
        self._hosted = {str(model.get("id")) for model in self._target.pages("/models")}
        self._evals = self._has_evals()
        items: list[Item] = []
        for item in plan(self._folder, self._state):
            if item.fate is Fate.COPIED:
                try:
                    self._steps[item.kind](item)
                except Refused as refusal:
                    item.fate, item.reason = Fate.LEFT, f"{self._target.name} refused it: {refusal.message}"
            items.append(item)
        report = {"source": self._state.source, "target": self._target.url, "items": [item.as_json() for item in items]}
        write_json(self._folder.path / REPORT, report)
        return items

    def _file(self, item: Item) -> None:
        file = self._folder.load(FILES, item.id)
        assert file is not None
        content = self._folder.content(item.id)
        # Quotes are escaped differently by every client, and the name is how an upload is found again.
        name = clean_filename(str(file.get("filename") or "upload")).replace('"', "'")
        purpose, size = str(file["purpose"]), content.stat().st_size

        def arrived() -> str | None:
            known = self._state.new_ids(self._target.url, FILES)
            for there in self._target.pages(PATHS[FILES], purpose=purpose, limit=1000):
                same = (there.get("filename"), there.get("bytes")) == (name, size)
                if same and there["id"] not in known and self._holds(there["id"], item.id):
                    return str(there["id"])
            return None

        def send(key: str) -> Any:
            with self._show.transfer(f"send {item.id} {name}", size) as moved:
                return self._target.upload(PATHS[FILES], content, name, purpose, key, moved)

        item.new_id = self._once(FILES, item.id, arrived, send)

    def _holds(self, new_id: str, old_id: str) -> bool:
        """Whether the target's file has the bytes of ours."""
        copy = self._folder.content(f"{old_id}.compare")
        try:
            self._target.download(f"{PATHS[FILES]}/{new_id}/content", copy, lambda _: None, size=None)
            return filecmp.cmp(copy, self._folder.content(old_id), shallow=False)
        except Refused:
            return False
        finally:
            copy.unlink(missing_ok=True)

    def _job(self, item: Item) -> None:
        job = self._folder.load(JOBS, item.id)
        assert job is not None
        training = self._new_file(job["training_file"])
        if training is None:
            item.fate = Fate.LEFT
            item.reason = f"its training file {job['training_file']} was refused; its settings stay in jobs/"
            return
        body, item.remarks = recipe(job, training, self._new_file(job.get("validation_file")))
        self._folder.save_as(RECIPES, item.id, body)
        if body["model"] not in self._hosted:
            item.remarks.append(f"this server has no model {body['model']}: change the recipe, or add an alias to it")
        if not self._run_jobs:
            return
        if job.get("status") != "succeeded":
            item.remarks.append(f"not started: the job was {job.get('status')}")
            return

        def arrived() -> str | None:
            wanted: dict[str, str | int] = {f"metadata[{key}]": value for key, value in body["metadata"].items()}
            for there in self._target.pages(PATHS[JOBS], limit=100, **wanted):
                if all(there.get(key) == body.get(key) for key in ("training_file", "metadata")):
                    return str(there["id"])
            return None

        try:
            item.new_id = self._once(JOBS, item.id, arrived, lambda key: self._target.post(PATHS[JOBS], body, key))
            self._show.say(f"started {item.new_id} from recipes/{item.id}.json")
        except Refused as refusal:
            item.remarks.append(f"not started: {refusal.message}")

    def _eval(self, item: Item) -> None:
        if not self._evals:
            item.fate, item.reason = Fate.LEFT, NO_EVALS.format(id=item.id)
            return
        evaluation = self._folder.load(EVALS, item.id)
        assert evaluation is not None
        body, item.remarks = eval_request(evaluation)

        def arrived() -> str | None:
            for there in self._target.pages(PATHS[EVALS], limit=100):
                if all(there.get(key) == body.get(key) for key in ("name", "metadata")):
                    return str(there["id"])
            return None

        item.reason = None
        item.new_id = self._once(EVALS, item.id, arrived, lambda key: self._target.post(PATHS[EVALS], body, key))

    def _new_file(self, old_id: Any) -> str | None:
        if not carried_file(self._folder, self._state, old_id):
            return None
        return self._state.new_id(self._target.url, FILES, old_id)

    def _has_evals(self) -> bool:
        try:
            self._target.get(PATHS[EVALS], limit=1)
            return True
        except Refused as refusal:
            if refusal.http_status != 404:
                raise ImportStopped(f"{self._target.name} does not list evals: {refusal.message}") from None
            return False

    def _once(self, kind: str, old: str, arrived: Callable[[], str | None], send: Callable[[str], Any]) -> str:
        """The id at the target; sends only what is not there.

        An attempt without an answer, in this run or in one that was killed, may have arrived: it is looked for first.
        The key is for the one that is still on its way; a server forgets keys after a day.
        Raises `Refused` when the target will not have it.
        """
        state, target = self._state, self._target
        new = state.new_id(target.url, kind, old)
        if new is not None and self._exists(kind, new):
            return new
        if new is not None:
            state.forget(target.url, kind, old)
            self._show.say(f"{old}: {new} is no longer at {target.name}; sending it again")
        for attempt in range(ATTEMPTS):
            key = state.pending(target.url, kind, old)
            new = arrived() if key is not None else None
            if new is None:
                key = key or state.set_pending(target.url, kind, old)
                try:
                    new = _id_in(send(key))
                except Refused:
                    state.forget(target.url, kind, old)
                    raise
                except Unclear as error:
                    self._show.say(f"{old}: {error.message}; looking whether it arrived")
                    target.pause(attempt)
                    continue
            state.set_new_id(target.url, kind, old, new)
            return new
        raise ImportStopped(f"{target.name} at {target.url} does not answer when {old} is sent; its log says why.")

    def _exists(self, kind: str, new: str) -> bool:
        try:
            self._target.get(f"{PATHS[kind]}/{new}")
            return True
        except Refused as refusal:
            if refusal.http_status != 404:
                raise
            return False


def _id_in(answer: Any) -> str:
    new = answer.get("id") if isinstance(answer, dict) else None
    if not isinstance(new, str):
        raise ImportStopped("The target answered without an id. Is its address right?")
    return new
