"""The style sheet of a report: calm on a screen of any width, light or dark, and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --panel: #f5f5f2; --ink: #1d2126; --soft: #5f6770; --rule: #e2e2dc; --bad: #b3261e; --good: #2e7d4f;
  --c0: #2f66b0; --c1: #c4581a; --c2: #2e8560; --c3: #8250b0; --c4: #a37b1f; --c5: #56616d;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --panel: #1d2126; --ink: #e4e6e9; --soft: #9aa3ad; --rule: #31373e;
    --bad: #f28b82; --good: #7cc79a;
    --c0: #7daaf0; --c1: #f0935a; --c2: #62c294; --c3: #bd94e8; --c4: #d9b152; --c5: #a2adb8;
  }
}
* { box-sizing: border-box; }
html { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .9rem; letter-spacing: -.005em; }
h3 { font-size: .95rem; margin: 1.6rem 0 .6rem; }
section { margin-top: 2.75rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
p { margin: 0 0 .8rem; max-width: 46rem; }
a { color: var(--c0); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin-top: 1.1rem; font-size: .85rem; }
small, .soft, .note { color: var(--soft); font-weight: 400; }
small { font-size: .8rem; }
.note { font-size: .82rem; line-height: 1.5; margin-bottom: .25rem; }
sup { font-size: .7em; line-height: 0; color: var(--soft); }
.charts + .scroll { margin-top: 1.6rem; }
.kind { color: var(--soft); font-size: .9rem; margin: 0 0 1.1rem; }
code, pre, .digest { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code, .digest { font-size: .84em; overflow-wrap: anywhere; }
pre { font-size: .8rem; line-height: 1.55; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
.number, table, .legend, .axis, .cards { font-variant-numeric: tabular-nums; }

.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .9rem; margin-top: 1.4rem; }
.card { background: var(--panel); border-radius: 8px; padding: .85rem 1rem .8rem; break-inside: avoid; }
.card h3 { margin: 0; font-size: .85rem; font-weight: 600; }
.card dl { display: grid; grid-template-columns: 1fr auto auto; gap: .15rem .6rem; margin: .6rem 0 0; }
.card dl { align-items: baseline; font-size: .85rem; }
.card dt { color: var(--soft); }
.card dd { margin: 0; text-align: right; font-size: 1.05rem; font-weight: 600; }
.card dd.soft { font-size: .75rem; font-weight: 400; }

.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; line-height: 1.4; }
th, td { padding: .38rem .9rem .38rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 500; color: var(--soft); font-size: .78rem; vertical-align: bottom; }
th:last-child, td:last-child { padding-right: 0; }
th.number, td.number { text-align: right; white-space: nowrap; }
td svg, th svg { display: block; overflow: visible; }
.scores td, .scores th { vertical-align: middle; }
.scores .group th { padding-bottom: .3rem; }
.scores .group th { color: var(--ink); font-size: .88rem; font-weight: 600; padding-top: 1.3rem; }
.scores .group:first-child th { padding-top: 0; }
.scores td:first-child { width: 26%; }
.scores .spread { width: 46%; font-weight: 400; min-width: 7rem; padding: .38rem 1rem; }
.scores td small { white-space: nowrap; }
.facts td:first-child { color: var(--soft); width: 13rem; }
.facts td { overflow-wrap: anywhere; }
.wordy td:last-child { min-width: 15rem; } .fact { white-space: nowrap; }
td > .digest { white-space: nowrap; }
.pass { color: var(--good); } .fail { color: var(--bad); font-weight: 600; }

figure { margin: 0; }
figcaption { font-size: .88rem; font-weight: 600; margin-bottom: .6rem; }
.chart { break-inside: avoid; min-width: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr)); gap: 1.6rem 2rem; }
.charts .wide { grid-column: 1 / -1; }
.plot { padding: 6px 16px 36px 50px; }
.plot > svg { display: block; overflow: visible; }
.axis { fill: var(--soft); font-size: 11.5px; font-weight: 400; }
.rule { stroke: var(--rule); stroke-width: 1; }
.tick { stroke: var(--soft); stroke-width: 1; }
.line { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
.s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
.again { stroke-dasharray: 4 4; }
.dot { fill: var(--paper); stroke-width: 1.5; }
text.broken { fill: var(--bad); font-size: 17px; font-weight: 700; } span.broken { color: var(--bad); }
.legend { list-style: none; margin: 0; padding: 0 0 0 50px; font-size: .78rem; line-height: 1.5; color: var(--soft); }
.legend b { color: var(--ink); font-weight: 600; }
.interval { stroke: var(--c0); stroke-width: 6; stroke-linecap: round; opacity: .32; }
.value { fill: var(--c0); }
.baseline .interval { stroke: var(--c5); } .baseline .value { fill: var(--c5); }
.bars { display: grid; grid-template-columns: auto minmax(3rem, 1fr) auto; gap: .15rem .8rem; align-items: center; }
.bars { font-size: .85rem; line-height: 1.4; } .bars svg { display: block; } .bars .number { text-align: right; }
.bars .label { color: var(--soft); } .bar { fill: var(--c0); opacity: .75; }

.sample { margin: 0 0 1rem; break-inside: avoid-page; }
.sample pre { background: var(--panel); border-radius: 6px; padding: .75rem .9rem; }
.sample .prompt { color: var(--soft); }
.sample .taught { color: var(--ink); background: color-mix(in srgb, var(--c2) 22%, transparent); border-radius: 2px; }
.sample .prompt + .text { color: var(--ink); }
.turn pre.prompt { background: none; border: 1px solid var(--rule); margin-bottom: .4rem; }
.sample figcaption { font-size: .78rem; font-weight: 400; color: var(--soft); margin-bottom: .3rem; }
.images { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.images img { max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; display: block; }
.images figcaption { font-weight: 400; font-size: .78rem; color: var(--soft); margin: .3rem 0 0; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-size: .88rem; font-weight: 500; padding: .2rem 0; }
details > :not(summary) { margin-top: .5rem; }
details > pre { background: var(--panel); border-radius: 6px; padding: .8rem .9rem; }

@media (max-width: 36rem) {
  html { font-size: 15px; }
  main { padding: 1.5rem 1rem 3rem; }
  .plot { padding-left: 42px; padding-right: 10px; }
  .legend { padding-left: 0; }
  .scores td small { display: block; } .scores td:first-child { width: auto; white-space: nowrap; }
  .scores .spread { width: 30%; padding: .38rem .8rem; min-width: 5.5rem; }
  .facts td:first-child { width: 8rem; }
}
@media print {
  :root { --paper: #fff; }
  html { font-size: 12px; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  section { margin-top: 1.5rem; padding-top: 1rem; }
  h2, h3, figcaption { break-after: avoid; }
  tr { break-inside: avoid; }
  .card, pre { border: 1px solid var(--rule); }
}
"""
