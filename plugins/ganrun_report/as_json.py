"""A comparison as JSON, for programs."""

from __future__ import annotations

from typing import Any

from ganrun import json_text
from ganrun_report.protocols import ScoreProtocol
from ganrun_report.ranking import Cell, Comparison, Row
from ganrun_report.reading import PastRun


def comparison_json(comparison: Comparison) -> str:
    """The comparison as JSON text in ASCII. Rows are in the order of the table; what is not finite is null."""
    content = {
        "by": comparison.by,
        "rankings": [
            {
                **_protocol_facts(ranking.protocol),
                "rows": [
                    {"rank": rank, **_row_facts(comparison, row)}
                    for row, rank in zip(ranking.rows, ranking.ranks, strict=True)
                ],
            }
            for ranking in comparison.rankings
        ],
        "unscored": [_row_facts(comparison, row) for row in comparison.unscored],
        "differences": {
            key: dict(zip(map(comparison.letter, comparison.groups), values, strict=True))
            for key, values in comparison.differences.items()
        },
    }
    return json_text(content, indent=2, only_ascii=True)


def _row_facts(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "group": comparison.letter(row.group),
        "name": row.group.name,
        "runs": [_run_facts(run) for run in row.runs],
        "scores": {score: _cell_facts(cell) for score, cell in row.cells.items()},
    }


def _run_facts(run: PastRun) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "seed": run.seed,
        "status": run.status,
        "health": run.health,
        "step": run.step,
        "seconds": run.seconds,
        "images_per_second": round(run.images_per_second, 1),
        "device": run.device,
    }


def _cell_facts(cell: Cell) -> dict[str, Any]:
    return {
        "mean": cell.mean,
        "std": cell.std,
        "n": cell.n,
        "error": cell.error,
        "earlier_step": cell.earlier_step,
        "floor": cell.floor,
        **_protocol_facts(cell.protocol),
    }


def _protocol_facts(protocol: ScoreProtocol) -> dict[str, Any]:
    entries = {key: value for key, value in protocol.items() if key != "better"}
    return {"better": protocol["better"], "protocol": entries}
