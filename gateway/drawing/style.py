"""The one style of pages and reports: ink on paper, dark at night, and one accent for what needs somebody's attention.

Nothing is loaded: the typefaces are the reader's own. Plots carry light colours as attributes, for where no style reaches them.
"""

from __future__ import annotations

import base64
import functools
from hashlib import sha256
from typing import Final

STYLE: Final = """
:root{--paper:#fbfaf8;--ink:#1f2328;--quiet:#666c75;--rule:#e4e2dd;--fill:#4b5563;--accent:#c2410c;--cool:#1d4ed8;
--sheet:#ffffff}
@media(prefers-color-scheme:dark){:root{--paper:#14161a;--ink:#e8e6e1;--quiet:#9aa1ab;--rule:#2c3037;--fill:#a3abb8;
--accent:#ff8f4f;--cool:#8ab4ff;--sheet:#1b1e23}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",
sans-serif;
font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
body>*{max-width:66rem;margin-left:auto;margin-right:auto;padding:0 1.25rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.25rem 1.25rem;padding-top:1.5rem;padding-bottom:1rem;
border-bottom:1px solid var(--rule)}
header .name{font-weight:650;letter-spacing:-.01em;text-decoration:none}
header .right{margin-left:auto;display:flex;gap:1.25rem;align-items:baseline}
h1{font-size:1.6rem;line-height:1.25;letter-spacing:-.02em;font-weight:650;margin:1.75rem auto .25rem}
h2{font-size:1.05rem;letter-spacing:-.01em;font-weight:650;margin:2.25rem 0 .5rem}
p{margin:.35rem 0}ul{margin:.35rem 0;padding-left:1.1rem}
a{color:inherit;text-decoration-color:var(--quiet);text-underline-offset:.18em}
a:hover{text-decoration-color:currentColor}
:focus-visible{outline:2px solid var(--ink);outline-offset:2px}
.quiet{color:var(--quiet)}.small{font-size:.87rem}
.level{display:inline-block;font-size:.8rem;line-height:1.5;padding:0 .5em;border-radius:1em;border:1px solid var(--rule);
color:var(--quiet);white-space:nowrap}
.level.warning{border-color:var(--accent);color:var(--accent)}
.level.critical{border-color:var(--accent);background:var(--accent);color:var(--paper);font-weight:600}
.alarm{border-left:3px solid var(--accent);padding-left:.75rem}
.route{border-top:1px solid var(--rule);padding:1rem 0;display:grid;grid-template-columns:minmax(11rem,1fr) 2.2fr;
gap:.25rem 2rem}
.route:first-of-type{border-top:0}
.route h3{margin:0;font-size:1rem;font-weight:650;overflow-wrap:anywhere}
svg.split{display:block;width:100%;height:.6rem;border-radius:.3rem}
svg.meter{width:10rem;height:.9rem;vertical-align:-.1rem}
.shade0{fill:var(--fill)}.shade1{fill:var(--cool)}.shade2{fill:var(--fill);fill-opacity:.55}.shade3{fill:var(--cool);
fill-opacity:.5}
.track{fill:var(--rule)}.fill{fill:var(--fill)}.over{fill:var(--accent)}.mark{fill:var(--ink)}
.legend{display:flex;flex-wrap:wrap;gap:0 1.25rem;font-size:.87rem;margin:.3rem 0}
.legend svg{width:.7rem;height:.7rem;margin-right:.4rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
caption{text-align:left;color:var(--quiet);font-size:.87rem;padding:.25rem 0}
th{font-size:.8rem;font-weight:500;color:var(--quiet);text-align:left;padding:.3rem 1rem .3rem 0;
border-bottom:1px solid var(--rule);vertical-align:bottom}
td{padding:.4rem 1rem .4rem 0;border-bottom:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere}
td:not(.number){min-width:7.5rem}
th.number,td.number{text-align:right}th:last-child,td:last-child{padding-right:0}
form.enter{max-width:26rem;margin:3rem auto;display:grid;gap:.75rem}
input[type=password]{font:inherit;padding:.55rem .7rem;border:1px solid var(--quiet);border-radius:.4rem;
background:var(--sheet);color:inherit;width:100%}
button{font:inherit;padding:.5rem .9rem;border:1px solid var(--ink);border-radius:.4rem;background:var(--ink);
color:var(--paper);cursor:pointer}
button.plain{border:0;background:none;color:inherit;padding:0;text-decoration:underline;text-decoration-color:var(--quiet);
text-underline-offset:.18em}
nav.pages{display:flex;gap:1.25rem;margin:1rem 0}
footer{margin-top:3rem;padding-top:1rem;padding-bottom:2rem;color:var(--quiet);font-size:.87rem}
h3{font-size:.95rem;font-weight:600;margin:1.25rem 0 .1rem}
figure{margin:1.25rem 0}.wide{overflow-x:auto}.wide svg{width:100%;min-width:36rem;height:auto;display:block}
.legend svg.swatch{width:1.2rem}
code{font-size:.93em}details summary{cursor:pointer;color:var(--quiet);font-size:.87rem}
.grid{stroke:var(--rule)}line.level,line.mark{stroke:var(--accent)}.line0{stroke:var(--fill)}.line1{stroke:var(--cool)}
.line2{stroke:var(--accent)}.line3{stroke:var(--quiet)}
.text0{fill:var(--fill)}.text1{fill:var(--cool)}.text2{fill:var(--accent)}.text3{fill:var(--quiet)}
@media(max-width:44rem){
.route{grid-template-columns:1fr}
thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
table,caption,tbody,tr,td{display:block}tr{border-bottom:1px solid var(--rule);padding:.6rem 0}
td,td.number{border:0;position:relative;min-height:1.7rem;padding:.1rem 0 .1rem 8.5rem;text-align:left}
td::before{content:attr(data-label);position:absolute;left:0;width:8rem;color:var(--quiet);font-size:.87rem}
header .right{margin-left:0;width:100%}
}
@media print{body{background:#fff}.right{display:none}}
"""


@functools.cache
def style_source() -> str:
    """Return what a content security policy calls the style: a page may use this one and no other."""
    return f"'sha256-{base64.b64encode(sha256(STYLE.encode()).digest()).decode()}'"
