"""`python -m dashboards`: write json/ anew."""

from __future__ import annotations

from pathlib import Path

from dashboards import after_deployment, freshfetch_itself, image_jobs, replay_and_repair
from dashboards.board import as_json

FOLDER = Path(__file__).parent / "json"


def files() -> dict[str, str]:
    """File name → content."""
    made = (
        module.dashboard() for module in (image_jobs, after_deployment, replay_and_repair, freshfetch_itself)
    )
    return {f"{one.uid}.json": as_json(one) for one in made}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
