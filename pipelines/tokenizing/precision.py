"""How many tokens bf16 changes: some of the rows just written are encoded again in fp32."""

from __future__ import annotations

import dataclasses

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.plan import Plan
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.tokenizing.job import TokenizeJob, make_encoder

SAMPLED_ROWS = 32


def fraction_changed(job: TokenizeJob, plan: Plan) -> float:
    """The fraction of tokens, in the first rows of the cache, that differ in fp32."""
    cache = TokenCache.open(job.cache, allow_partial=True)
    rows = cache.valid_rows()[:SAMPLED_ROWS].tolist()
    encode = make_encoder(job.load_tokenizer(), dataclasses.replace(job, precision="fp32"))
    changed = total = 0
    with cpu_threads(1), job.open_data() as pool:
        results = pool.read((plan.request(row) for row in rows), ahead=2)
        for row, result in zip(rows, results, strict=True):
            assert result.frames is not None  # it was decoded before
            tokens = encode(result.frames[None])
            written = cache.read([row], steps=1)
            changed += sum(int((tokens[name] != written[name]).sum()) for name in tokens)
            total += sum(array.size for array in tokens.values())
    return changed / total
