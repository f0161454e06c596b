"""Looks of the validation page, in light and dark."""

CSS = """\
:root { color-scheme: light dark; --ink: #1f2328; --dim: #656d76; --paper: #ffffff; --card: #f6f8fa; --line: #d8dee4;
  --bar: #4f7cac; --good: #1a7f37; --quarantine: #9a6700; --stop: #cf222e; --note: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --dim: #8d96a0; --paper: #0d1117; --card: #161b22; --line: #30363d;
    --bar: #79a6d2; --good: #3fb950; --quarantine: #d29922; --stop: #f85149; --note: #58a6ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .35rem; }
section > p { max-width: 44rem; margin: .5rem 0; }
table.figures { width: auto; min-width: 24rem; }
header p { color: var(--dim); margin: 0 0 1.25rem; max-width: 44rem; }
a { color: inherit; text-underline-offset: 2px; }
code { font: .85em ui-monospace, monospace; background: var(--card); padding: .1em .35em; border-radius: 4px; }
.banner { border: 1px solid currentColor; border-radius: 8px; padding: .75rem 1rem; margin: 0 0 1.25rem; }
.banner b { margin-right: .35rem; }
.good, .ok { color: var(--good); } .stop { color: var(--stop); }
.quarantine { color: var(--quarantine); } .note { color: var(--note); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: .82rem; color: var(--dim); }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.n { text-align: right; white-space: nowrap; }
.dim { color: var(--dim); font-size: .85rem; }
.says { color: var(--dim); max-width: 38rem; }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 999px; padding: 0 .55rem;
  font-size: .78rem; white-space: nowrap; }
.badge.none { color: var(--dim); border-color: var(--line); }
.charts { display: flex; flex-wrap: wrap; gap: .75rem; margin-bottom: 1rem; }
figure { margin: 0; padding: .75rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  flex: 1 1 16rem; max-width: 19.5rem; }
figcaption { font-size: .85rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg rect { fill: var(--bar); } svg line { stroke: var(--line); } svg text { fill: var(--dim); font-size: 10px; }
details { margin-top: .35rem; } summary { cursor: pointer; font-size: .85rem; }
.findings { margin: .4rem 0; padding-left: 1.1rem; } .findings li { margin-bottom: .4rem; overflow-wrap: anywhere; }
blockquote { margin: .2rem 0 0; padding-left: .7rem; border-left: 3px solid var(--line); color: var(--dim);
  font-size: .88rem; white-space: pre-wrap; }
@media print { details { display: block; } }
"""
