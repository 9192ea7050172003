"""Options by which a user trusts what is refused else."""

from typing import Annotated

import typer

InsecureCluster = Annotated[
    bool,
    typer.Option(
        "--insecure-cluster", help="join a Ray cluster that asks for no token, where whoever reaches it runs code"
    ),
]
TrustCheckpoint = Annotated[
    bool, typer.Option("--trust-checkpoint", help="load a checkpoint that you did not write: its shards can run code")
]
