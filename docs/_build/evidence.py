"""Write the results of the study `meta` as the evidence on which the app recommends protocols.

    attrlib study meta --out FOLDER
    python -m docs._build.evidence FOLDER/meta.json
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
from attrlib.studies.ladder import DAMAGES

FILE = Path(attrlib.__file__).parent / "studies" / "evidence.json"


def rows_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the ranked protocols for the truth of removed parts, with their kind of model."""
    return [
        {
            "transformer": attrlib.load_model(row["model"]).layer("Final").layout.kind == "tokens",
            "tuned": row["tuned"],
            "protocol": row["protocol"],
            **{name: round(row[name], 4) for name in ("mean", "low", "high")},
            "recovers": row["recovers"],
            "kinds": {kind: round(row[kind], 4) for kind in DAMAGES},
        }
        for row in result["rows"]
        if row["truth"] == "parts" and not row["by construction"]
    ]


if __name__ == "__main__":
    rows = rows_of(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    FILE.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
