"""Whether tokens, priors and tokenizers belong together."""

from __future__ import annotations

from collections.abc import Mapping

from tokenreel.errors import CacheError


def require_one_tokenizer(fingerprints: Mapping[str, str | None]) -> None:
    """Raises CacheError unless all of these have the same code fingerprint: that of the tokenizer whose tokens they
    are, or that they were trained on. The keys say in words what has it, as in `--tokens samples.zarr`.
    """
    (first, expected), *others = fingerprints.items()
    for name, found in others:
        if found != expected:
            raise CacheError(
                f"{first} and {name} belong to different tokenizers (code fingerprints {expected} and {found}): use a "
                "tokenizer, caches and priors that were made with one another"
            )
