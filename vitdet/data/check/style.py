"""The style sheet of the page of a report."""

STYLE = """
:root { --ink: #1c1e21; --dim: #5f6670; --line: #dfe3e8; --paper: #fff; --ground: #f4f6f8;
  --error: #c62828; --warning: #b26a00; --note: #1565c0; --bar: #5b8def; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa3ad; --line: #343a42; --paper: #1d2125;
  --ground: #14171a; --error: #ef6c6c; --warning: #e0a33c; --note: #6ea8ff; --bar: #4a7bd8; } }
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
th:first-child, td:first-child { text-align: left; white-space: normal; }
tr + tr td { border-top: 1px solid var(--line); }
.bars { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr max-content; gap: 3px 10px;
  align-items: center; font-size: .88rem; max-width: 760px; }
.bars > span { overflow-wrap: anywhere; max-width: 14rem; font-variant-numeric: tabular-nums; }
.bars i { display: block; background: var(--line); border-radius: 3px; height: 12px; }
.bars b { display: block; background: var(--bar); border-radius: 3px; height: 12px; }
@media (max-width: 480px) { main { padding: 10px; } .figures { grid-template-columns: 1fr 1fr; }
  figure img { height: 130px; } th, td { padding: .25rem .4rem; font-size: .8rem; }
  .bars { grid-template-columns: minmax(4.5rem, 8rem) 1fr max-content; gap: 3px 6px; font-size: .8rem; } }
"""
