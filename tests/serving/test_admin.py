"""The operators' port over real servers: who may change a release, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from gan_serving.keys import Caller, add_key
from gan_serving.published import Release
from gan_serving.releases import promote
from gan_serving.repository import publish, read
from tests.serving.graphs import WATERMARK_INPUTS, WATERMARK_OUTPUT, blank, watermark, write_export
from tests.serving.processes import Load, Serving, wait_until

JSON = "application/json"
Ask = Callable[..., httpx.Response]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two versions of ``marked``: blue is 70 of the first, 80 of the second."""
    for shade in (0, 10):
        source = write_export(tmp_path / str(shade), "marked", watermark(shade=shade))
        publish(source, tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """An admin's key and another's."""
    file = tmp_path / "keys.yaml"
    return add_key(file, Caller("root", admin=True))[0], add_key(file, Caller("app"))[0]


@pytest.fixture(params=["ort", pytest.param("triton", marks=pytest.mark.faults)])
def serving(
    request: pytest.FixtureRequest, repository: Path, keys: tuple[str, str], tmp_path: Path
) -> Iterator[Serving]:
    """A server with keys and an admin port, over each engine."""
    if request.param == "triton":
        request.getfixturevalue("has_triton")
    options = ("--admin-port", "0", "--keys", str(tmp_path / "keys.yaml"))
    with Serving(repository, request.param, *options) as serving:
        assert wait_until(serving.ready, 30)
        yield serving


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def void(_: object) -> None:
    """What a load's answers are."""


def asking(serving: Serving, key: str) -> Callable[[int], int]:
    """A request to the public port with a seed; gives the version that answered."""

    def ask(seed: int) -> int:
        body = {"model": "marked", "seed": seed}
        answer = httpx.post(
            f"{serving.url}/v1/images/generations", json=body, headers=bearer(key), timeout=30
        )
        assert answer.status_code == 200, answer.text
        return int(answer.json()["version"])

    return ask


def test_an_operator_rolls_back_and_promotes_under_load_and_no_request_fails(
    serving: Serving, keys: tuple[str, str]
) -> None:
    ask = asking(serving, keys[1])
    with (
        Load(4, lambda seed: void(ask(seed))),
        httpx.Client(base_url=serving.admin, headers=bearer(keys[0]), timeout=60) as admin,
    ):
        assert ask(0) == 2
        back = admin.post("/admin/models/marked:rollback")
        assert (back.status_code, back.json()["version"]) == (200, 1)
        assert wait_until(lambda: ask(0) == 1, 10)
        promoted = admin.post("/admin/models/marked:promote", json={"version": 2})
        assert promoted.json() == {
            "model": "marked", "version": 2, "previous": 1, "canary": None, "weight": None,
            "versions": [1, 2],
        }  # fmt: skip
        assert wait_until(lambda: ask(0) == 2, 10)
        assert admin.get("/admin/models").json() == [promoted.json()]


def test_a_model_is_unloaded_and_loaded(serving: Serving, keys: tuple[str, str]) -> None:
    with httpx.Client(base_url=serving.admin, headers=bearer(keys[0]), timeout=60) as admin:
        assert admin.post("/admin/models/marked:unload").status_code == 204
        gone = httpx.get(f"{serving.url}/v1/models", headers=bearer(keys[1])).json()["data"]
        assert gone == []
        body = {"model": "marked", "seed": 1}
        url = f"{serving.url}/v1/images/generations"
        refused = httpx.post(url, json=body, headers=bearer(keys[1]))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert "'marked' is unloaded: POST /admin/models/marked:load" in refused.json()["detail"]
        assert admin.post("/admin/models/marked:load").json()["version"] == 2
        assert wait_until(lambda: asking(serving, keys[1])(0) == 2, 10)


def test_a_canary_that_gives_blank_images_is_ended_by_itself_and_no_request_fails(
    serving: Serving, keys: tuple[str, str], repository: Path, tmp_path: Path
) -> None:
    ask = asking(serving, keys[1])
    source = write_export(tmp_path / "b", "marked", blank(WATERMARK_INPUTS, WATERMARK_OUTPUT))
    publish(source, repository, canary=0.5)
    with Load(4, lambda seed: void(ask(seed))):
        assert wait_until(lambda: read(repository, "marked").release.canary is None, 30)
    assert read(repository, "marked").release == Release(version=2, previous=1)
    assert {ask(seed) for seed in range(20)} == {2}
    assert "version 3 of marked gets no more requests" in serving.errors()


def test_a_canary_that_cannot_be_loaded_fails_no_request(
    repository: Path, keys: tuple[str, str], tmp_path: Path
) -> None:
    publish(tmp_path / "0", repository, canary=0.5)
    (repository / "marked" / "3" / "model.onnx").write_bytes(b"broken")
    with Serving(repository, "ort", "--keys", str(tmp_path / "keys.yaml")) as serving:
        ask = asking(serving, keys[1])
        assert {ask(seed) for seed in range(40)} == {2}
        assert wait_until(lambda: read(repository, "marked").release.canary is None, 10)


def test_a_canary_is_promoted_without_naming_it(
    repository: Path, keys: tuple[str, str], tmp_path: Path
) -> None:
    publish(tmp_path / "0", repository, canary=0.5)
    options = ("--admin-port", "0", "--keys", str(tmp_path / "keys.yaml"))
    with Serving(repository, "ort", *options) as serving:
        url = f"{serving.admin}/admin/models/marked:promote"
        promoted = httpx.post(url, headers=bearer(keys[0])).json()
    assert (promoted["version"], promoted["canary"]) == (3, None)


def test_another_processs_promotion_is_followed(
    serving: Serving, keys: tuple[str, str], repository: Path
) -> None:
    promote(repository, "marked", 1)
    assert wait_until(lambda: asking(serving, keys[1])(0) == 1, 10)


def test_who_is_no_admin_changes_nothing(
    repository: Path, keys: tuple[str, str], tmp_path: Path
) -> None:
    options = ("--admin-port", "0", "--keys", str(tmp_path / "keys.yaml"))
    with Serving(repository, "ort", *options) as serving:
        url = f"{serving.admin}/admin/models/marked:rollback"
        assert httpx.post(url).status_code == 401
        refused = httpx.post(url, headers=bearer(keys[1]))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
        listed = httpx.get(f"{serving.admin}/admin/models", headers=bearer(keys[1]))
        assert listed.status_code == 403
        assert httpx.post(f"{serving.url}/admin/models/marked:rollback").status_code == 404
    with Serving(repository, "ort", "--admin-port", "0") as serving:
        url = f"{serving.admin}/admin/models/marked:rollback"
        assert httpx.post(url).json()["detail"].startswith("'anybody' is no admin")
    assert read(repository, "marked").release.version == 2


def test_mistakes_are_named(repository: Path, keys: tuple[str, str], tmp_path: Path) -> None:
    options = ("--admin-port", "0", "--keys", str(tmp_path / "keys.yaml"))
    with (
        Serving(repository, "ort", *options) as serving,
        httpx.Client(base_url=f"{serving.admin}/admin/models", headers=bearer(keys[0])) as admin,
    ):
        cases = {
            "/other:rollback": ({}, 404, "no model is called 'other'"),
            "/marked:promote": ({"version": 9}, 404, "has no version 9"),
            "/marked:canary": ({"weight": 2}, 422, "weight: Input should be less than 1"),
            "/marked:explode": ({}, 404, "no route"),
        }
        for path, (body, status, detail) in cases.items():
            answer = admin.post(path, json=body)
            assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), path
        cut = admin.post("/marked:promote", content=b"{", headers={"Content-Type": JSON})
        assert (cut.status_code, cut.json()["error"]["code"]) == (400, "bad_request")
        assert "Warning" not in serving.errors()
