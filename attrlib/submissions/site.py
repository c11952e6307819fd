"""The leaderboard as a static page: one HTML file without scripts or fonts from elsewhere, a table as CSV, and the submissions beside it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from attrlib.analysis.paper_values import SOURCE, values_of_the_paper
from attrlib.errors import SpecError
from attrlib.figures.numbers import number
from attrlib.figures.tables import csv_table
from attrlib.submissions.board import Board, Entry
from attrlib.submissions.reading import Refused

FILES = "submissions"
_COLUMNS = ("Data", "Protocol", "Rank", "Model", "Method", "Mean", "95 % CI", "Items", "Undefined", "From")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text must not begin with in a spreadsheet, which would take it for a formula."""
_STYLE = """
:root { color-scheme: light dark; --line: #d8dde3; --quiet: #57606a; --strong: #1f5fa8; --page: #fff; --text: #1c2128 }
@media (prefers-color-scheme: dark) { :root { --line: #39424e; --quiet: #9aa4af; --strong: #6aa5e8; --page: #15191f; --text: #e4e8ed } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 86rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; margin: 1rem 0 }
label { display: grid; font-size: .85rem; color: var(--quiet) }
select, input { font: inherit; padding: .3rem .4rem; max-width: 16rem }
.wide { overflow-x: auto }
a { color: var(--strong) }
table { border-collapse: collapse; width: 100%; min-width: 60rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; overflow-wrap: break-word }
td { max-width: 18rem }
th button { font: inherit; font-weight: 600; border: 0; background: none; color: inherit; padding: 0; cursor: pointer; text-align: left }
th[aria-sort] button { color: var(--strong) }
th[aria-sort=ascending] button::after { content: " ↑" } th[aria-sort=descending] button::after { content: " ↓" }
td.number, th.number { text-align: right; white-space: nowrap }
details pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; max-width: 34rem }
.note { color: var(--quiet) }
@media print { form, details { display: none } }
"""
_SCRIPT = """
const table = document.querySelector("#board"), body = table.tBodies[0], rows = [...body.rows];
const value = (row, k) => row.cells[k].dataset.value ?? row.cells[k].textContent;
table.tHead.querySelectorAll("button").forEach((button, k) => button.addEventListener("click", () => {
  const head = button.parentElement, down = head.getAttribute("aria-sort") === "ascending";
  table.tHead.querySelectorAll("th").forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const numeric = head.classList.contains("number");
  rows.sort((a, b) => {
    const [x, y] = [value(a, k), value(b, k)];
    const order = numeric ? (x === "" ? 1 : y === "" ? -1 : x - y) : x.localeCompare(y);
    return down ? -order : order;
  });
  body.append(...rows);
}));
const form = document.querySelector("form"), count = document.querySelector("#count");
const show = () => {
  let shown = 0;
  for (const row of rows) {
    const chosen = ["data", "protocol", "model"].every(name => !form[name].value || row.dataset[name] === form[name].value);
    row.hidden = !(chosen && row.dataset.method.toLowerCase().includes(form.method_search.value.toLowerCase()));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${rows.length} rows`;
};
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
"""


def write_site(board: Board, refused: Sequence[Refused], folder: Path, published: bool = True) -> None:
    """Write the page, the table and the submissions.

    Args:
        board: The rows.
        refused: The files that do not verify.
        folder: Folder of the site, which is made.
        published: Whether to add the values of the IDSDS paper, which are not ranked.

    Raises:
        SpecError: If the folder cannot be written.
    """
    files = {entry.file: entry.submission for entry in board}
    try:
        (folder / FILES).mkdir(parents=True, exist_ok=True)
        for submission in files.values():
            (folder / FILES / f"{submission.digest}.json").write_bytes(submission.to_json())
        (folder / "index.html").write_text(page(board, refused, published), encoding="utf-8")
        (folder / "leaderboard.csv").write_bytes(csv_table([{name: _safe(text) for name, text in _row(entry).items()} for entry in board]))
    except OSError as error:
        raise SpecError(f"cannot write {str(folder)!r} ({error.strerror}); choose another folder with --out") from None


def page(board: Board, refused: Sequence[Refused], published: bool) -> str:
    """Return the page as HTML; texts of submissions are escaped."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">",
        f"<title>Attribution leaderboard</title><style>{_STYLE}</style></head><body><main><h1>Attribution leaderboard</h1>",
        "<p class=note>Means over items with 95 % CIs. A rank such as 1–3 is the range that the data allow among all rows of the same protocol on the same "
        "items. All numbers are computed from the scores of the items; a file whose digest does not match is refused. A digest notices edits, it does not "
        "prove who computed what: run the command of a row to check it.</p>",
        _form(board),
        "<div class=wide><table id=board><thead><tr>",
        *(
            f"<th scope=col{' class=number' if name in _NUMERIC else ''}><button type=button>{escape(name)}</button></th>"
            for name in _COLUMNS
        ),
        "</tr></thead><tbody>",
        *map(_html_row, board),
        "</tbody></table></div><p class=note><span id=count></span> · <a href=leaderboard.csv download>CSV</a></p>",
    ]
    if published:
        parts += _published()
    if refused:
        parts += ["<h2>Refused</h2><ul>", *(f"<li><b>{escape(each.file)}</b>: {escape(each.reason)}</li>" for each in refused), "</ul>"]
    return "\n".join([*parts, f"</main><script>{_SCRIPT}</script></body></html>"])


_NUMERIC = ("Rank", "Mean", "95 % CI", "Items", "Undefined")


def _form(board: Board) -> str:
    menus = []
    for name in ("data", "protocol", "model"):
        texts = sorted({str(getattr(entry, name)) for entry in board})
        options = "".join(f'<option value="{escape(text)}">{escape(text)}</option>' for text in texts)
        menus.append(f"<label>{name.capitalize()}<select name={name}><option value=''>all</option>{options}</select></label>")
    return f"<form>{''.join(menus)}<label>Method<input type=search name=method_search placeholder='part of a name'></label></form>"


def _row(entry: Entry) -> dict[str, str | int | float]:
    """Return the values of a row by column."""
    own = entry.place.summary
    values = (
        entry.data,
        entry.protocol,
        entry.place.ranks,
        entry.model,
        entry.method,
        own.mean,
        f"{number(own.low, 4)} to {number(own.high, 4)}",
    )
    return dict(zip(_COLUMNS, (*values, own.n + own.undefined, own.undefined, entry.submission.name), strict=True))


def _html_row(entry: Entry) -> str:
    own, submission = entry.place.summary, entry.submission
    sort = {"Rank": entry.place.first, "95 % CI": own.low if own.n > 1 else ""}
    cells = []
    for name, value in _row(entry).items():
        text = number(value, 4) if isinstance(value, float) else str(value)
        data = f' class=number data-value="{sort.get(name, value)}"' if name in _NUMERIC else ""
        if name == "From":
            who = (
                f'<a href="{escape(submission.link)}" rel="nofollow noopener">{escape(text or submission.link)}</a>'
                if submission.link
                else escape(text)
            )
            text = f"{who} <details><summary>Reproduce</summary>{_provenance(entry)}</details>"
        else:
            text = escape(f"{text} {'↑' if entry.better > 0 else '↓'}" if name == "Protocol" else text)
        cells.append(f"<td{data}>{text}</td>")
    names = " ".join(f'data-{name}="{escape(str(getattr(entry, name)))}"' for name in ("data", "protocol", "model", "method"))
    return f"<tr {names}>{''.join(cells)}</tr>"


def _provenance(entry: Entry) -> str:
    own = entry.submission
    facts = f"attrlib {own.version}, {own.created[:10]}, weights {own.weights[:12]}, file {entry.file}, {'higher' if entry.better > 0 else 'lower'} is better"
    return f"<pre>{escape(entry.command)}</pre><span class=note>{escape(facts)} · <a href={FILES}/{own.digest}.json>submission</a></span>"


def _published() -> list[str]:
    rows = "".join(
        f"<tr><td>{escape(model)}</td><td>{escape(method)}</td><td class=number>{value:.3f}</td></tr>"
        for model, method, value in values_of_the_paper()
    )
    return [
        "<h2>Published values</h2>",
        f"<p class=note>IDSDS on the 50,000 validation images of ImageNet ({escape(SOURCE)}). Not computed here, and not ranked.</p>",
        f"<details><summary>Show</summary><div class=wide><table><thead><tr><th>Model<th>Method<th class=number>IDSDS</tr></thead><tbody>{rows}</tbody></table></div></details>",
    ]


def _safe(value: str | int | float) -> str | int | float:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
