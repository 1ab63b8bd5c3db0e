"""The demo's prior with several seeds, on the cache of a finished demo: bits/code compared to the counted baselines.

    python -m tokenreel.benchmarks.papers.lvt.prior_seeds demo --seeds 3

Held-out clips, one given frame. "below" is the gain over the temporal bigram prior, p(token | token one frame before).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.commands import train_prior
from tokenreel.pipelines.commands.demo import GIVEN
from tokenreel.pipelines.report.choice_bound import choice_bits_per_code
from tokenreel.pipelines.requests.training import TrainPriorRequest


@click.command()
@click.argument("demo", type=click.Path(path_type=Path, exists=True))
@click.option("--seeds", default=3)
@click.option("--preset", default="gpt-tabletop-tiny")
def main(demo: Path, seeds: int, preset: str) -> None:
    cache = demo / "tokens.zarr"
    bound = choice_bits_per_code(TokenCache.open(cache), demo / "videos", GIVEN)
    click.echo("seed  prior  temporal bigram prior  unigram prior  choices of the data  below  seconds")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            scores = train_prior.run(
                TrainPriorRequest(preset=preset, cache=cache, out=Path(folder) / "prior", seed=seed)
            )
        prior, bigram = scores["bits_per_code"], scores["bits_per_code_temporal_bigram"]
        click.echo(
            f"{seed:4}  {prior:.3f}  {bigram:.3f}  {scores['bits_per_code_unigram']:.3f}  {bound:.4f}  "
            f"{1 - prior / bigram:.1%}  {scores['seconds']:.0f}"
        )


if __name__ == "__main__":
    main()
