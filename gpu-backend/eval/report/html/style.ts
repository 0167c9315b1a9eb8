/** Style of the pages: dark and light by what the reader prefers, one column on a phone, plain ink on paper. */
export const STYLE = `
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5a6570;--line:#dfe3e8;--page:#f6f7f9;--card:#fff;--track:#eef1f4;
--own:#0b6e5f;--own-soft:#0b6e5f38;--dot:#8793a0;--mantis:#b8860b;--good:#0b6e5f;--bad:#b3362c;--guess:#b3362c;--chip:#eef1f4}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaee;--soft:#9aa6b2;--line:#2e353d;--page:#12161a;--card:#1a1f25;--track:#252c34;
--own:#4fd1b5;--own-soft:#4fd1b544;--dot:#7d8a97;--mantis:#e3b341;--good:#4fd1b5;--bad:#ff8a7d;--guess:#ff8a7d;--chip:#252c34}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.2;margin:0;overflow-wrap:anywhere}h2{font-size:18px;margin:0 0 4px}h3{font-size:14px;margin:18px 0 6px}
p{margin:6px 0}.gap{height:16px}.soft{color:var(--soft)}.small{font-size:13px}
.top{margin-bottom:20px}.top p{overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:0 0 16px}
.two{margin-bottom:16px}.two:has(>section+section){columns:420px 2;column-gap:16px}.two>section{break-inside:avoid}.two table+table,.two .scroll+table{margin-top:14px}
.big{font-size:54px;line-height:1;font-weight:650;letter-spacing:-1px;color:var(--own)}
.head{display:flex;gap:16px 48px;flex-wrap:wrap;align-items:flex-end;margin-bottom:14px}
.facts{display:flex;gap:8px 28px;flex-wrap:wrap;margin:0}.facts div{min-width:0}.facts dt{font-size:12px;color:var(--soft)}.facts dd{margin:0;font-weight:600}
table{border-collapse:collapse;width:100%}caption{text-align:left;font-weight:600;font-size:14px;padding:0 0 6px}
th,td{text-align:left;padding:3px 10px 3px 0;vertical-align:middle;font-weight:400}td.n,th.n{text-align:right;padding-right:0;padding-left:10px;white-space:nowrap}
thead th{font-size:12px;color:var(--soft);border-bottom:1px solid var(--line)}
.plain td,.plain th{border-bottom:1px solid var(--line);overflow-wrap:anywhere}
.path{min-width:12em}
.bars th{width:1%;white-space:nowrap;max-width:260px;overflow:hidden;text-overflow:ellipsis}.bars td.t{min-width:110px}.bars td.n{width:1%}
.bars .lead th,.bars .lead td{font-weight:650}
.track{position:relative;height:16px;background:linear-gradient(var(--track),var(--track)) center/100% 6px no-repeat}
.track i{position:absolute;display:block;top:0;bottom:0}
.track .fill{left:0;top:5px;bottom:5px;background:var(--own-soft)}.track .range{top:4px;bottom:4px;background:var(--own-soft);border-radius:4px;min-width:2px}
.track .dot{width:10px;height:10px;top:3px;margin-left:-5px;border-radius:50%;background:var(--dot)}
.track .dot.own,.track .dot.good{background:var(--own)}.track .dot.bad{background:var(--bad)}.track .dot.mantis{background:var(--mantis)}.track .dot.random{background:none;border:2px solid var(--guess)}
.track .mark{width:0;border-left:2px dashed var(--guess);opacity:.75}.track .zero{width:0;border-left:1px solid var(--soft)}
.key{display:flex;gap:4px 18px;flex-wrap:wrap;font-size:12px;color:var(--soft);margin:8px 0 0;padding:0;list-style:none}
.key i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px;background:var(--dot)}.key .own{background:var(--own)}.key .mantis{background:var(--mantis)}
.key .random{background:none;border:2px solid var(--guess)}.key .mark{width:0;height:12px;border-radius:0;border-left:2px dashed var(--guess);background:none;vertical-align:-2px}
.verdict{border-left:5px solid var(--soft);padding:2px 0 2px 14px;margin:8px 0 12px;font-size:17px;font-weight:600}
.verdict.yes{border-color:var(--good)}.verdict.no{border-color:var(--bad)}.verdict.partly{border-color:var(--mantis)}
.checks{margin:0;padding:0;list-style:none}.checks li{padding:3px 0 3px 26px;position:relative}.checks li::before{position:absolute;left:2px;font-weight:700}
.checks .yes::before{content:"✓";color:var(--good)}.checks .no::before{content:"✗";color:var(--bad)}.checks .unclear::before{content:"–";color:var(--soft)}
.heat{width:auto}.heat td{text-align:center;padding:6px 10px;border:1px solid var(--line);min-width:52px}.heat thead td{border:0}
.heat th{padding:4px 10px;font-size:13px}.heat thead th{text-align:center;border:0}.heat th span{display:inline-block;max-width:9.5em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;vertical-align:bottom}
.note{background:color-mix(in srgb,var(--mantis) 14%,transparent);border-radius:8px;padding:8px 14px;margin:8px 0 12px}
.slot{display:inline-block;font-size:.8em;line-height:1.35;font-weight:600;color:var(--own);border:1px solid var(--own-soft);border-radius:5px;padding:0 5px;margin:0 2px}
.big.neutral{color:var(--ink)}.big.bad{color:var(--bad)}
.scroll{overflow-x:auto}
.filters{display:flex;gap:10px;flex-wrap:wrap;margin:10px 0 14px;align-items:end}.filters label{font-size:12px;color:var(--soft);display:grid;gap:2px}
select,input{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);border-radius:8px;padding:6px 8px;max-width:100%}
:focus-visible{outline:3px solid var(--own);outline-offset:2px}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:14px}
article{border:1px solid var(--line);border-radius:10px;padding:12px 14px;break-inside:avoid;min-width:0;overflow-wrap:anywhere}
article p{white-space:pre-wrap;unicode-bidi:isolate}article .chips{margin:0 0 6px}.chip{display:inline-block;font-size:12px;background:var(--chip);border-radius:6px;padding:1px 7px;margin:0 4px 4px 0}
.pictures{display:flex;gap:6px;flex-wrap:wrap;margin:8px 0}.pictures figure{margin:0}.pictures figcaption{font-size:11px;color:var(--soft);text-align:center}
.pictures svg{display:block;max-width:100%;height:auto;border-radius:4px;background:var(--track)}
.none{display:grid;place-items:center;width:96px;height:72px;background:var(--track);color:var(--soft);font-size:11px;text-align:center;border-radius:4px}
.answers{display:grid;grid-template-columns:fit-content(36%) 1fr;gap:2px 10px;margin:8px 0 0}.answers dt{color:var(--soft);font-size:13px;min-width:0}.answers dd{margin:0;white-space:pre-wrap;unicode-bidi:isolate;min-width:0}
.answers .small{font-weight:400}.answers .bad{color:var(--bad);font-weight:600}.answers .good{color:var(--good);font-weight:600}
ol.options{margin:6px 0;padding-left:24px;list-style:upper-alpha}ol.options li{unicode-bidi:isolate}
pre{font-size:12.5px;white-space:pre-wrap;overflow-wrap:anywhere;background:var(--page);border-radius:8px;padding:12px;margin:8px 0 0}
summary{cursor:pointer;font-weight:600}code{font-size:.92em;overflow-wrap:anywhere}[hidden]{display:none!important}
.plot{max-width:340px;overflow:visible;width:100%;height:auto}.plot text{fill:var(--soft);font-size:11px}.plot .axis{stroke:var(--line);fill:none}.plot .ideal{stroke:var(--soft);stroke-dasharray:4 4}.plot .own{fill:var(--own);fill-opacity:.8}
footer{color:var(--soft);font-size:12px;margin-top:24px;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:18px 10px 40px}section{padding:14px 12px}.big{font-size:44px}.bars{table-layout:fixed}.bars th{width:39%;max-width:none;white-space:normal;overflow-wrap:anywhere;hyphens:auto;line-height:1.2;font-size:13px}.bars td.n{width:31%;white-space:normal;font-size:13px}.bars td.t{min-width:0}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--page:#fff;--card:#fff;--track:#eee;--own:#0b6e5f;--own-soft:#0b6e5f38;--dot:#777;--mantis:#b8860b;--good:#0b6e5f;--bad:#b3362c;--guess:#b3362c;--chip:#eee}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.filters{display:none}section{border:0;border-top:1px solid #bbb;border-radius:0;padding:12px 0;break-inside:auto}main{max-width:none;padding:0}
table,.verdict,.head{break-inside:avoid}.gallery{grid-template-columns:1fr 1fr}details>*{display:block}}
`;

/** Filters of the galleries. Reads and hides what is on the page, nothing else. */
export const SCRIPT = `
for (const form of document.querySelectorAll('form.filters')) {
  const cards = [...document.querySelectorAll('#' + form.dataset.for + ' > article')];
  const shown = form.querySelector('output');
  const apply = () => {
    const wanted = new FormData(form);
    const words = String(wanted.get('words') || '').toLowerCase();
    let count = 0;
    for (const card of cards) {
      const fits = ['category', 'rule', 'given'].every((key) => !wanted.get(key) || card.dataset[key] === wanted.get(key));
      card.hidden = !(fits && (words === '' || card.textContent.toLowerCase().includes(words)));
      if (!card.hidden) count++;
    }
    shown.textContent = count + ' of ' + cards.length + ' shown';
  };
  form.addEventListener('input', apply);
  form.addEventListener('submit', (event) => event.preventDefault());
  apply();
}
`;
