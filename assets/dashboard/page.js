// The page of one SAE. Data comes in scripts that call cusae.receive(name, value): scripts load from
// disk, where fetch does not. Every page has an address after '#', so that links and "back" work.
'use strict';

const cusae = { values: {}, waiting: {} };

cusae.receive = (name, value) => {
  cusae.values[name] = value;
};

// A value by its name, from data/NAME.js, loaded once.
function load(name) {
  if (name in cusae.values) return Promise.resolve(cusae.values[name]);
  cusae.waiting[name] ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = `data/${name}.js`;
    script.onload = () => (name in cusae.values ? resolve(cusae.values[name]) : reject(new Error(`data/${name}.js is damaged`)));
    script.onerror = () => reject(new Error(`data/${name}.js cannot be read; is the folder complete?`));
    document.head.append(script);
  });
  return cusae.waiting[name];
}

// An element with attributes and children; strings are text, never markup.
function make(name, attributes = {}, ...children) {
  const element = name === 'svg' || make.inSvg.has(name)
    ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}
make.inSvg = new Set(['rect', 'path', 'line', 'text', 'title', 'g']);

const number = (x, digits = 3) => (x === null || x === undefined ? '–' : Number(x).toLocaleString('en', { maximumSignificantDigits: digits }));
const whole = (x) => Number(x).toLocaleString('en');
const percent = (x) => `${number(100 * x, 3)}\u00a0%`;
const visible = (text) => text.replaceAll('\n', '⏎').replaceAll('\t', '⇥').replace(/^ /, '·').replace(/ $/, '·');

// Where a name may be broken: behind a point, a stroke or an underscore.
const breakable = (text) => text.split(/(?<=[._/])/).flatMap((part) => [part, make('wbr')]);

function figures(entries) {
  return make('dl', { class: 'figures' },
    entries.filter(([, value]) => value !== undefined).map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, breakable(value)))));
}

// Bars from `from` to `to`; `label` says what is counted, for people and screen readers.
function histogram(counts, from, to, label, ticks = (x) => number(x)) {
  if (counts.length === 1) return make('p', { class: 'faint' }, counts[0] ? `${ticks(from)} for all ${whole(counts[0])}` : 'none');
  const [width, height, most] = [340, 120, Math.max(1, ...counts)];
  const total = counts.reduce((a, b) => a + b, 0);
  const svg = make('svg', { viewBox: `0 0 ${width} ${height + 18}`, role: 'img', 'aria-label': `${label}: ${whole(total)} in ${counts.length} bins from ${ticks(from)} to ${ticks(to)}` });
  const step = width / counts.length;
  counts.forEach((count, i) => {
    const tall = count ? Math.max(1, (height * count) / most) : 0;
    const range = `${ticks(from + ((to - from) * i) / counts.length)} to ${ticks(from + ((to - from) * (i + 1)) / counts.length)}`;
    svg.append(make('rect', { class: 'bar', x: i * step, y: height - tall, width: Math.max(step - 0.5, 0.5), height: tall }, make('title', {}, `${range}: ${whole(count)}`)));
  });
  svg.append(make('line', { class: 'axis', x1: 0, x2: width, y1: height, y2: height }));
  svg.append(make('text', { x: 0, y: height + 14 }, ticks(from)), make('text', { x: width, y: height + 14, 'text-anchor': 'end' }, ticks(to)));
  return svg;
}

function curve(points, label) {
  if (points.every(([, y]) => y === points[0][1])) return make('p', { class: 'faint' }, `${number(points[0][1])} at every step`);
  const [width, height] = [340, 120];
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const at = ([x, y]) => `${((x - x0) / (x1 - x0 || 1)) * width},${height - ((y - y0) / (y1 - y0 || 1)) * height}`;
  const svg = make('svg', { viewBox: `0 -4 ${width} ${height + 24}`, role: 'img', 'aria-label': `${label}: from ${number(ys[0])} to ${number(ys.at(-1))}` });
  svg.append(make('path', { class: 'curve', d: `M${points.map(at).join('L')}` }), make('line', { class: 'axis', x1: 0, x2: width, y1: height, y2: height }));
  svg.append(make('text', { x: 0, y: height + 14 }, `step ${whole(x0)}: ${number(ys[0])}`), make('text', { x: width, y: height + 14, 'text-anchor': 'end' }, `step ${whole(x1)}: ${number(ys.at(-1))}`));
  return svg;
}

async function overview() {
  const it = await load('overview');
  const panel = (title, picture) => make('section', {}, make('h3', {}, title), picture);
  const power = (x) => percent(10 ** x);
  return ['Overview', [
    make('h2', {}, breakable(it.title)),
    figures([
      ['Architecture', it.architecture], ['Model', it.model], ['Hook', it.hook], ['Features', whole(it.d_sae)], ['Width', whole(it.d_in)],
      ['Tokens read', whole(it.tokens)], ['Text', it.text], ['L0', number(it.l0, 4)], ['Dead in this text', `${whole(it.dead)} (${percent(it.dead / it.d_sae)})`],
    ]),
    make('div', { class: 'columns' },
      panel('Density of the features', histogram(it.density.counts, it.density.from, it.density.to, 'Density', power)),
      panel('Length of the decoder rows', histogram(it.decoder_norm.counts, it.decoder_norm.from, it.decoder_norm.to, 'Decoder norm')),
      it.encoder_decoder_cosine.counts.some((n) => n) ? panel('Cosine of encoder and decoder', histogram(it.encoder_decoder_cosine.counts, it.encoder_decoder_cosine.from, it.encoder_decoder_cosine.to, 'Cosine')) : [],
      it.curves.map(({ name, points }) => panel(`Training: ${name}`, curve(points, name)))),
    make('p', {}, make('a', { href: '#/list' }, `All ${whole(it.d_sae)} features`), ' · ', make('a', { href: '#/text' }, 'The text with its features')),
  ]];
}

const columns = [['feature', 'Feature'], ['density', 'Density'], ['mean', 'Mean'], ['max', 'Max'], ['norm', 'Norm'], ['cosine', 'Cosine']];
const listState = { query: '', by: 'feature', down: false, first: 0, dead: false };
const PAGE = 100;

function matches(list, vocabulary) {
  const { query, by, down, dead } = listState;
  const wanted = query.trim().toLowerCase();
  const says = (i) => !wanted || String(i) === wanted || list.tokens[i].some((id) => vocabulary[id].toLowerCase().includes(wanted));
  const found = [...list.density.keys()].filter((i) => (dead || list.density[i] > 0) && says(i));
  const value = by === 'feature' ? (i) => i : (i) => list[by][i];
  return found.sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b)) || a - b);
}

async function list() {
  const [table, vocabulary] = await Promise.all([load('list'), load('vocabulary')]);
  const body = make('tbody');
  const status = make('p', { class: 'faint', role: 'status', 'aria-live': 'polite' });
  const heads = columns.map(([key, name]) => {
    const sort = () => {
      Object.assign(listState, { down: listState.by === key ? !listState.down : key !== 'feature', by: key, first: 0 });
      show();
    };
    return [key, make('th', { scope: 'col' }, make('button', { type: 'button', onclick: sort }, name))];
  });
  const move = (by) => () => {
    listState.first += by;
    show();
    document.getElementById('main').scrollIntoView();
  };
  const [previous, next] = [make('button', { type: 'button', onclick: move(-PAGE) }, 'Previous'), make('button', { type: 'button', onclick: move(PAGE) }, 'Next')];
  const show = () => {
    const found = matches(table, vocabulary);
    const shown = found.slice(listState.first, listState.first + PAGE);
    body.replaceChildren(...shown.map((i) => make('tr', {},
      make('td', {}, make('a', { href: `#/feature/${i}` }, String(i))), make('td', {}, percent(table.density[i])), make('td', {}, number(table.mean[i])),
      make('td', {}, number(table.max[i])), make('td', {}, number(table.norm[i])), make('td', {}, number(table.cosine[i])),
      make('td', {}, table.tokens[i].map((id) => [make('span', { class: 'chip' }, visible(vocabulary[id])), ' ']).flat()))));
    status.textContent = `${whole(found.length)} features${found.length ? `, ${whole(listState.first + 1)} to ${whole(listState.first + shown.length)} shown` : ''}`;
    [previous.disabled, next.disabled] = [listState.first === 0, listState.first + PAGE >= found.length];
    heads.forEach(([key, head]) => (key === listState.by ? head.setAttribute('aria-sort', listState.down ? 'descending' : 'ascending') : head.removeAttribute('aria-sort')));
  };
  const search = make('input', { type: 'search', id: 'search', value: listState.query, oninput: (event) => {
    Object.assign(listState, { query: event.target.value, first: 0 });
    show();
  } });
  const dead = make('input', { type: 'checkbox', id: 'dead', onchange: (event) => {
    Object.assign(listState, { dead: event.target.checked, first: 0 });
    show();
  } });
  dead.checked = listState.dead;
  show();
  return ['List', [
    make('h2', {}, 'All features'),
    make('div', { class: 'controls' }, make('label', { for: 'search' }, 'Number or token'), search, make('span', {}, dead, ' ', make('label', { for: 'dead' }, 'with dead ones'))),
    status,
    make('div', { class: 'scroll' }, make('table', {}, make('thead', {}, make('tr', {}, heads.map(([, head]) => head), make('th', { scope: 'col' }, 'Makes likely, or fires on'))), body)),
    make('div', { class: 'pager' }, previous, next),
  ]];
}

// A piece of text: each token as strong as the feature is there; the value on pointing at it.
function words(ids, activations, center, vocabulary, most) {
  return make('span', { class: 'words' }, ids.map((id, i) => make('span', {
    class: i === center ? 'token center' : 'token', style: activations[i] ? `--strength:${(0.15 + 0.75 * (activations[i] / most)).toFixed(3)}` : undefined,
    title: `${visible(vocabulary[id])} ${activations[i] ? number(activations[i]) : 'not active'}`,
  }, vocabulary[id].replaceAll('\n', '⏎'))));
}

function contexts(places, vocabulary, most) {
  return places.map(({ row, position, activation, tokens, activations, center }) => make('p', { class: 'context' },
    make('span', { class: 'value', title: `row ${row}, position ${position}` }, number(activation)), words(tokens, activations, center, vocabulary, most)));
}

async function feature(argument) {
  const [it, vocabulary] = await Promise.all([load('overview'), load('vocabulary')]);
  const n = Number(argument);
  if (!Number.isInteger(n) || n < 0 || n >= it.d_sae) {
    return ['No such feature', [make('h2', {}, 'No such feature'), make('p', {}, `${argument}: this SAE has features 0 to ${it.d_sae - 1}.`)]];
  }
  const part = await load(`features/${Math.floor(n / it.features_in_a_file)}`);
  const f = part[n % it.features_in_a_file];
  const tokens = (title, entries, sign) => make('section', {}, make('h3', {}, title), make('ol', { class: 'plain' }, entries.map(([id, logit]) =>
    make('li', {}, make('span', { class: 'chip' }, visible(vocabulary[id])), make('span', { class: sign }, `${logit > 0 ? '+' : ''}${number(logit)}`)))));
  const others = (title, entries, what) => make('section', {}, make('h3', {}, title), entries.length
    ? make('ol', { class: 'plain' }, entries.map(([other, value]) => make('li', {}, make('a', { href: `#/feature/${other}` }, `Feature ${other}`), make('span', { title: what }, number(value)))))
    : make('p', { class: 'faint' }, 'none'));
  const quantiles = f.quantiles.map((value, i) => [`${percent(it.quantiles[i])} below`, number(value)]);
  const top = f.count
    ? [make('h3', {}, 'Where it fires most'), ...contexts(f.top, vocabulary, f.max),
      ...f.examples.flatMap((places, i) => {
        const [low, high] = [f.examples.length - 1 - i, f.examples.length - i].map((x) => (f.max * x) / f.examples.length);
        return places.length ? [make('h3', {}, `Drawn from ${number(low)} to ${number(high)}`), ...contexts(places, vocabulary, f.max)] : [];
      })]
    : [make('p', {}, 'It is not active anywhere in this text.')];
  return [`Feature ${n}`, [
    make('h2', {}, `Feature ${n}`),
    figures([['Active on', f.count === 1 ? '1 token' : `${whole(f.count)} tokens`], ['Density', percent(f.density)], ['Mean', number(f.mean)], ['Maximum', number(f.max)],
      ['Decoder norm', number(f.decoder_norm)], ['Encoder · decoder', number(f.encoder_decoder_cosine)]]),
    it.neuronpedia_id ? make('p', {}, make('a', { href: `https://neuronpedia.org/${it.neuronpedia_id}/${n}` }, 'On Neuronpedia')) : undefined,
    make('div', { class: 'columns' },
      make('section', {}, make('h3', {}, 'Activations'), f.count ? histogram(f.histogram, 0, f.max, 'Activations') : make('p', { class: 'faint' }, 'none'),
        make('p', { class: 'faint' }, quantiles.map(([name, value]) => `${name} ${value}`.replaceAll(' ', '\u00a0')).join(' · ')),
        f.logits ? [make('h3', {}, 'Change of all logits'), histogram(f.logits.counts, f.logits.from, f.logits.to, 'Tokens of the vocabulary by logit')] : undefined),
      f.top_tokens.length ? tokens('Makes likely', f.top_tokens, 'up') : undefined,
      f.bottom_tokens.length ? tokens('Makes unlikely', f.bottom_tokens, 'down') : undefined,
      others('Fires together with', f.together, 'share of the tokens of either on which both fire'),
      others('Correlates with', f.correlated, 'correlation of the activations over all tokens'),
      others('Points the same way', f.decoder_neighbours, 'cosine of the decoder rows')),
    ...top,
    make('nav', { class: 'pager', 'aria-label': 'Neighbouring features' },
      n > 0 ? make('a', { href: `#/feature/${n - 1}` }, `← Feature ${n - 1}`) : make('span'),
      n + 1 < it.d_sae ? make('a', { href: `#/feature/${n + 1}` }, `Feature ${n + 1} →`) : make('span')),
  ]];
}

// Rows of tokens, each with the list of its features, which are shown where a token is chosen; `extra(n)`
// adds to a feature's line.
function annotated(rows, vocabulary, extra = () => undefined) {
  const details = make('div', { role: 'status', 'aria-live': 'polite', class: 'details' }, make('p', { class: 'faint' }, 'Choose a token to see its features.'));
  let chosen;
  const show = (element, token, entries) => {
    chosen?.removeAttribute('aria-pressed');
    chosen = element;
    chosen.setAttribute('aria-pressed', 'true');
    details.replaceChildren(make('h3', {}, 'Features of ', make('span', { class: 'chip' }, visible(vocabulary[token]))),
      entries.length ? make('ol', { class: 'plain' }, entries.map(([other, value]) => make('li', {}, make('a', { href: `#/feature/${other}` }, `Feature ${other}`), make('span', {}, number(value), extra(other)))))
        : make('p', { class: 'faint' }, 'none'));
  };
  const most = Math.max(1, ...rows.flatMap((row) => row.features.slice(1).map((entries) => (entries[0] ?? [0, 0])[1])));
  const token = (row, i) => {
    const [id, entries] = [row.tokens[i], row.features[i]];
    const choose = (event) => {
      if (event.type === 'click' || event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        show(event.currentTarget, id, entries);
      }
    };
    const strength = entries.length ? Math.min(0.6, (0.5 * entries[0][1]) / most) : 0;
    const title = entries.length ? `${visible(vocabulary[id])}: ${entries.slice(0, 3).map(([other, value]) => `${other} (${number(value)})`).join(', ')}` : `${visible(vocabulary[id])}: no features`;
    return make('span', { class: 'token', role: 'button', tabindex: 0, title, style: `--strength:${strength.toFixed(3)}`, onclick: choose, onkeydown: choose }, vocabulary[id].replaceAll('\n', '⏎'));
  };
  return [details, ...rows.map((row) => make('p', { class: 'context' }, make('span', { class: 'words' }, row.tokens.map((_, i) => token(row, i)))))];
}

async function text() {
  const [rows, vocabulary] = await Promise.all([load('text'), load('vocabulary')]);
  return ['Text', [make('h2', {}, 'The text with its features'), ...annotated(rows, vocabulary)]];
}

// Asks the server of this page. Error: its sentence.
async function ask(what, request, signal) {
  const answer = await fetch(`api/${what}`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(request), signal });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

// The lines of an answer as they come, each parsed.
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

const tryState = { prompt: '', changes: [], tokens: 40, temperature: 0 };

// A prompt that is typed: its features, and text with features changed. Only on a page of `cusae serve`.
async function tryOut() {
  const [about, vocabulary, table] = await Promise.all([load('live'), load('vocabulary'), load('list')]);
  if (!about) return ['Try', [make('h2', {}, 'Try'), make('p', {}, 'This needs the model: open the page with ', make('code', {}, 'cusae serve'), '.')]];
  const problem = make('p', { role: 'alert', class: 'problem' });
  const told = (work) => async (event) => {
    event.preventDefault();
    problem.textContent = '';
    try {
      await work();
    } catch (error) {
      if (error.name !== 'AbortError') problem.textContent = error.message;
    }
  };

  const prompt = make('textarea', { id: 'prompt', rows: 3, required: true, spellcheck: 'false', oninput: (event) => { tryState.prompt = event.target.value; } });
  prompt.value = tryState.prompt;
  const found = make('div', { id: 'found' });
  const features = told(async () => {
    const row = await (await ask('features', { prompt: prompt.value })).json();
    const steer = (other) => make('button', { type: 'button', class: 'small', 'aria-label': `Steer with feature ${other}`, onclick: () => change({ feature: other }) }, 'steer');
    found.replaceChildren(...annotated([row], vocabulary, steer));
  });

  const rows = make('div', { class: 'changes' });
  const change = (given) => {
    const it = { feature: '', how: 'times', value: 2, ...given };
    tryState.changes.push(it);
    row(it).querySelector('input').focus();
  };
  const row = (it) => {
    const bound = (key, element) => {
      element.value = it[key];
      element.addEventListener('input', () => { it[key] = element.value; });
      return element;
    };
    const line = make('div', { class: 'controls' },
      bound('feature', make('input', { inputmode: 'numeric', class: 'narrow', placeholder: 'feature', 'aria-label': 'Feature' })),
      bound('how', make('select', { 'aria-label': 'Change' }, make('option', { value: 'times' }, 'add × its maximum'), make('option', { value: 'add' }, 'add'), make('option', { value: 'set' }, 'set to'))),
      bound('value', make('input', { inputmode: 'decimal', class: 'narrow', 'aria-label': 'Amount' })),
      make('button', { type: 'button', class: 'small', onclick: () => {
        tryState.changes.splice(tryState.changes.indexOf(it), 1);
        line.remove();
      } }, 'remove'));
    rows.append(line);
    return line;
  };
  tryState.changes.forEach(row);
  const written = ({ feature: which, how, value }) => {
    const [n, amount] = [Number(which), Number(value)];
    if (which === '' || !Number.isInteger(n) || n < 0 || n >= table.max.length) throw new Error(`Feature ${which || '(none)'}: this SAE has features 0 to ${table.max.length - 1}.`);
    if (value === '' || !Number.isFinite(amount)) throw new Error(`Amount ${value || '(none)'}: a number is needed.`);
    if (how === 'times' && !table.max[n]) throw new Error(`Feature ${n} has no maximum: it is not active in this page's text.`);
    if (how === 'set' && amount < 0) throw new Error('A feature can be set to 0 or more.');
    const by = how === 'times' ? amount * table.max[n] : amount;
    return `${n}=${how !== 'set' && by >= 0 ? '+' : ''}${by}`;
  };

  const setting = (id, label, key, mode) => {
    const input = make('input', { id, inputmode: mode, class: 'narrow', oninput: (event) => { tryState[key] = event.target.value; } });
    input.value = tryState[key];
    return make('span', {}, make('label', { for: id }, label), ' ', input);
  };
  const panes = { without: make('p', { class: 'grown', id: 'without' }), steered: make('p', { class: 'grown', id: 'steered' }) };
  const state = make('span', { role: 'status', class: 'faint' });
  const stop = make('button', { type: 'button', disabled: true }, 'Stop');
  const generate = told(async () => {
    const abort = new AbortController();
    stop.onclick = () => abort.abort();
    stop.disabled = false;
    state.textContent = 'writing …';
    Object.values(panes).forEach((pane) => pane.replaceChildren(make('span', { class: 'faint' }, prompt.value)));
    try {
      const answer = await ask('steer', {
        prompt: prompt.value, features: tryState.changes.map(written), max_new_tokens: Number(tryState.tokens), temperature: Number(tryState.temperature),
      }, abort.signal);
      for await (const line of lines(answer)) {
        if (line.error) throw new Error(line.error);
        if (line.of) panes[line.of].append(line.text);
      }
      state.textContent = 'done';
    } catch (error) {
      state.textContent = '';
      throw error;
    } finally {
      stop.disabled = true;
    }
  });

  return ['Try', [
    make('h2', {}, 'Try'),
    make('form', { id: 'ask', onsubmit: features }, make('label', { for: 'prompt' }, `Prompt, at most ${whole(about.n_ctx)} tokens`), prompt,
      make('div', { class: 'controls' }, make('button', { class: 'main' }, 'Show its features'))),
    problem, found,
    make('h3', {}, 'Steer'),
    make('form', { id: 'steer', onsubmit: generate }, rows,
      make('div', { class: 'controls' },
        make('button', { type: 'button', id: 'add', onclick: () => change({}) }, 'Change a feature'),
        setting('tokens', 'New tokens', 'tokens', 'numeric'), setting('temperature', 'Temperature', 'temperature', 'decimal'),
        make('button', { class: 'main' }, 'Generate'), stop, state)),
    make('div', { class: 'columns' },
      make('section', { 'aria-label': 'Without' }, make('h3', {}, 'Without'), panes.without),
      make('section', { 'aria-label': 'Steered' }, make('h3', {}, 'Steered'), panes.steered)),
  ]];
}

const pages = { '': overview, list, feature, text, try: tryOut };

async function route(event) {
  const [, name = '', argument] = location.hash.split('/');
  const main = document.getElementById('main');
  const asked = location.hash;
  try {
    const [title, content] = await (pages[name] ?? overview)(argument);
    if (location.hash !== asked) return;
    const { title: sae } = await load('overview');
    document.title = `${title} · ${sae}`;
    main.replaceChildren(...content.filter(Boolean));
  } catch (error) {
    main.replaceChildren(make('h2', {}, 'This cannot be shown'), make('p', { role: 'alert' }, error.message));
  }
  for (const link of document.querySelectorAll('header nav a')) {
    if (link.dataset.page === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (event) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

document.getElementById('go').addEventListener('submit', (event) => {
  event.preventDefault();
  location.hash = `#/feature/${document.getElementById('number').value.trim()}`;
});
window.addEventListener('hashchange', route);
load('live').then((about) => { document.querySelector('[data-page=try]').hidden = !about; }, () => {});
route();
