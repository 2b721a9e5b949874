"""The style sheet of all pages, and the script that sorts tables and enlarges pictures."""

STYLE = """
:root { --ink: #1c1e21; --dim: #5f6670; --line: #dfe3e8; --paper: #fff; --ground: #f4f6f8;
  --error: #c62828; --warning: #b26a00; --note: #1565c0; --bar: #5b8def; --tone: 42%; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa3ad; --line: #343a42; --paper: #1d2125;
  --ground: #14171a; --error: #ef6c6c; --warning: #e0a33c; --note: #6ea8ff; --bar: #4a7bd8; --tone: 66%; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.35rem; overflow-wrap: anywhere; margin: .4rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
h4 { font-size: .9rem; margin: .9rem 0 .3rem; font-weight: 600; color: var(--dim); }
.dim, small { color: var(--dim); font-size: .88rem; }
code { font: .85em ui-monospace, monospace; background: var(--ground); padding: .1em .35em; border-radius: 4px;
  overflow-wrap: anywhere; }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: 999px; font-size: .82rem; font-weight: 600;
  color: var(--paper); }
.badge.error { background: var(--error); } .badge.warning { background: var(--warning); }
.badge.note { background: var(--note); } .badge.none { background: var(--line); color: var(--dim); }
section { background: var(--paper); border: 1px solid var(--line); border-left: 5px solid var(--line);
  border-radius: 8px; padding: 12px 14px; margin: 0 0 12px; }
section.error { border-left-color: var(--error); } section.warning { border-left-color: var(--warning); }
section.note { border-left-color: var(--note); }
section p { margin: .45rem 0; overflow-wrap: anywhere; }
section ul { margin: .4rem 0; padding-left: 1.2rem; font-size: .88rem; color: var(--dim); overflow-wrap: anywhere; }
.fix::before { content: "→ "; } .fix { color: var(--dim); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 10px; }
figure { margin: 0; } figure img { width: 100%; height: 180px; object-fit: contain; background: var(--ground);
  border-radius: 6px; display: block; }
figcaption { font-size: .78rem; color: var(--dim); overflow-wrap: anywhere; margin-top: 3px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: 8px; }
th, td { padding: .3rem .7rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 6rem;
  max-width: 18rem; }
tr + tr td { border-top: 1px solid var(--line); }
.bars { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr max-content; gap: 3px 10px;
  align-items: center; font-size: .88rem; max-width: 760px; }
.bars > span { overflow-wrap: anywhere; max-width: 14rem; font-variant-numeric: tabular-nums; }
.bars i { display: block; background: var(--line); border-radius: 3px; height: 12px; }
.bars b { display: block; background: var(--bar); border-radius: 3px; height: 12px; }
@media (max-width: 480px) { main { padding: 10px; } .figures { grid-template-columns: 1fr 1fr; }
  figure img { height: 130px; } th, td { padding: .25rem .4rem; font-size: .8rem; }
  .bars { grid-template-columns: minmax(4.5rem, 8rem) 1fr max-content; gap: 3px 6px; font-size: .8rem; } }
nav { margin: .6rem 0; } nav a { display: inline-block; margin: 0 .9rem .3rem 0; padding: .15rem 0; }
a { color: var(--note); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 10px; margin: .8rem 0; }
.cards div { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
.cards b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.cards span { font-size: .8rem; color: var(--dim); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 12px; }
.chart { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 8px 10px; }
.chart h3 { margin: 0 0 .2rem; font-size: .92rem; } .chart svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; } svg .ink { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; } svg polyline { fill: none; stroke-width: 1.6;
  stroke-linejoin: round; } svg polyline.strong { stroke-width: 2.8; } svg polyline.faint { opacity: .3; }
svg polyline:hover { stroke-width: 4; opacity: 1; }
.key { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: .8rem; margin-top: 4px; overflow-wrap: anywhere; }
.key i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 5px; vertical-align: 3px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); gap: 12px;
  align-items: start; }
.pair { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 8px; margin: 0; }
.pair > div { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
figure.pair img, figure.crop img { width: 100%; height: auto; border-radius: 4px; cursor: zoom-in; }
.pair small { display: block; } .crops { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(200px, 46%), 1fr)); gap: 12px; align-items: start; }
dialog { border: 0; padding: 0; background: #000; max-width: 96vw; max-height: 96vh; } dialog::backdrop {
  background: rgba(0, 0, 0, .75); } dialog img { display: block; max-width: 96vw; max-height: 94vh; width: 94vw;
  object-fit: contain; cursor: zoom-out; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--note); }
th button::after { content: " ↕"; color: var(--dim); } th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
td.heat { text-align: center; } th.up { vertical-align: bottom; }
th.up span { display: block; writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 9rem; overflow: hidden; text-overflow: ellipsis; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--paper); border: 1px solid var(--line);
  border-radius: 8px; padding: 10px; font: .85rem ui-monospace, monospace; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--dim); }
@media (max-width: 480px) { .pair > div { grid-template-columns: 1fr; }
  .crops { gap: 8px; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll('th button')) button.addEventListener('click', () => {
  const head = button.parentElement, body = head.closest('table').tBodies[0];
  const down = head.getAttribute('aria-sort') !== 'descending', at = head.cellIndex;
  for (const other of head.parentElement.cells) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const value = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
  const compare = (a, b) => isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b;
  [...body.rows].sort((a, b) => compare(value(a), value(b)) * (down ? -1 : 1)).forEach(row => body.append(row));
});
const shown = document.createElement('dialog'); document.body.append(shown);
shown.addEventListener('click', () => shown.close());
const enlarge = event => {
  if (!event.target.matches('.pair img, .crop img')) return;
  if (event.type === 'keydown' && event.key !== 'Enter') return;
  shown.replaceChildren(event.target.cloneNode()); shown.showModal();
};
document.addEventListener('click', enlarge); document.addEventListener('keydown', enlarge);
"""
