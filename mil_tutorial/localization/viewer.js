/* The page of a slide: Leaflet moves and zooms it, this file lays patches, scores and labels over it.

Places are level-0 pixels: x to the right, y down. Leaflet's latitude is -y. At zoom 0 a pixel of the screen is one of
level 0, at zoom -1 it is two of them, and so on. */
(() => {
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { width, height, side, x, y, labels } = data;
const n = x.length, names = Object.keys(data.scores), byId = id => document.getElementById(id);
const at = (px, py) => L.latLng(-py, px);
const whole = L.latLngBounds(at(0, 0), at(width, height));
const finest = data.levels.length ? data.levels[data.levels.length - 1].factor : 1;
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const framed = window.parent !== window;
const short = value => Number(value.toPrecision(3)).toString();

const map = L.map("map", {
    crs: L.CRS.Simple, attributionControl: false, zoomSnap: 0.25, zoomDelta: 1, wheelDebounceTime: 10, minZoom: -16,
    maxZoom: -Math.log2(finest), zoomAnimation: !calm, fadeAnimation: false, scrollWheelZoom: !framed,
    maxBounds: whole.pad(0.5), doubleClickZoom: n === 0, bounceAtZoomLimits: false,
});

/* The slide: a picture of all of it, and tiles over it where there are some. */

function pane(name, order) {
    const made = map.createPane(name);
    made.style.zIndex = order;
    made.style.pointerEvents = "none";
    return name;
}

const there = new Map(data.levels.map(level => [level.factor, level.tiles && new Set(level.tiles)]));

function addressOf(factor, column, row) {
    const tiles = there.get(factor);
    if (tiles === undefined || (tiles && !tiles.has(`${column}_${row}`))) return null;
    if (data.inside) return "data:image/jpeg;base64," + data.inside[`${factor}/${column}_${row}`];
    return `${data.address}/${factor}/${column}_${row}.jpg`;
}

const fine = window.devicePixelRatio > 1.25 && data.levels.length > 1 ? 1 : 0;  // a sharp screen: tiles of one level more
const Slide = L.GridLayer.extend({
    createTile(place, done) {
        const factor = 2 ** -(place.z + fine), address = addressOf(factor, place.x, place.y);
        if (address === null) {
            setTimeout(done, 0);
            return document.createElement("div");
        }
        const tile = document.createElement("img");
        tile.alt = "";
        const beyond = (number, length) => Math.max(0, 100 * (number + 1 - length / (data.tile * factor)));  // white, in %
        tile.style.clipPath = `inset(0 ${beyond(place.x, width)}% ${beyond(place.y, height)}% 0)`;
        tile.onload = () => done(null, tile);
        tile.onerror = () => done(new Error("no tile"), tile);
        tile.src = address;
        return tile;
    },
});

L.imageOverlay(data.overview, whole, { pane: pane("overview", 100), alt: "" }).addTo(map);
if (data.levels.length)
    new Slide({
        tileSize: data.tile / 2 ** fine, bounds: whole, pane: pane("slide", 200), minZoom: -16, updateWhenZooming: false,
        minNativeZoom: -Math.log2(data.levels[0].factor) - fine, maxNativeZoom: -Math.log2(finest) - fine,
    }).addTo(map);

/* Patches, painted tile by tile: scores, outlines and truth into one picture, which moves more lightly than three. */

const Painted = L.GridLayer.extend({
    initialize(options) {
        const own = { tileSize: 512, bounds: whole, minZoom: -16, updateWhenZooming: false };
        L.GridLayer.prototype.initialize.call(this, { ...options, ...own });
        this.canvases = new Map();
        this.on("tileunload", event => this.canvases.delete(event.tile));
    },
    createTile(place) {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = Math.round(512 * window.devicePixelRatio);
        this.canvases.set(canvas, place);
        this.fill(canvas, place);
        return canvas;
    },
    fill(canvas, place) {
        const all = canvas.width, scale = 2 ** place.z * all / 512, left = place.x * all, top = place.y * all;
        const context = canvas.getContext("2d"), boxes = [];
        context.clearRect(0, 0, all, all);
        for (let i = 0; i < n; i++) {
            const x0 = Math.round(x[i] * scale) - left, x1 = Math.round(Math.min(width, x[i] + side) * scale) - left;
            const y0 = Math.round(y[i] * scale) - top, y1 = Math.round(Math.min(height, y[i] + side) * scale) - top;
            if (x1 > 0 && y1 > 0 && x0 < all && y0 < all) boxes.push([i, x0, y0, x1, y1]);
        }
        for (const paint of shown()) {
            boxes.forEach(box => paint(context, ...box));
            context.globalAlpha = 1;
        }
    },
    again() { for (const [canvas, place] of this.canvases) this.fill(canvas, place); },
});

const NEAR = 160;  // pixels of a patch on the screen, from where on one looks at cells
let score = null, low = 0, high = 1, least = -Infinity, opacity = 0, colours = [];
const told = value => Math.abs(value) < 1e-4 * Math.max(-low, high) ? "0" : short(value);  // beside the others it is nothing

/* The tissue stays to be seen: a score near zero is hardly painted, a high one less when one looks at cells; there the
colour is in the patch's frame. At full opacity all is covered. Where patches overlap, the last one is seen. */
function paintScore(context, i, x0, y0, x1, y1) {
    if (!score || score[i] < least) return;
    const part = Math.max(0, Math.min(1, (score[i] - low) / (high - low)));
    const wide = x1 - x0, tall = y1 - y0, dense = Math.max(1, window.devicePixelRatio), thick = 4 * dense;
    const near = Math.max(0, Math.min(1.5, Math.log2(wide / dense / NEAR)));
    context.clearRect(x0, y0, wide, tall);
    context.fillStyle = "#" + colours[Math.round(part * (colours.length - 1))];
    const strength = Math.sqrt(low < 0 ? Math.abs(2 * part - 1) : part);  // zero says nothing
    context.globalAlpha = opacity ** (3.5 - 2.5 * strength + near);
    context.fillRect(x0, y0, wide, tall);
    if (!near) return;
    context.globalAlpha = opacity ** (1.5 - strength);
    context.strokeStyle = context.fillStyle;
    context.lineWidth = thick;
    context.strokeRect(x0 + thick / 2, y0 + thick / 2, wide - thick, tall - thick);
}

function paintOutline(context, i, x0, y0, x1, y1) {
    context.lineWidth = Math.max(1, window.devicePixelRatio);
    context.strokeStyle = "rgba(27, 31, 36, .75)";
    context.strokeRect(x0 + .5, y0 + .5, x1 - x0 - 1, y1 - y0 - 1);
}

const tumour = new Set(), edges = [];  // of each tumour patch: which sides have no tumour patch beyond them
if (labels) labels.forEach((label, i) => { if (label === 1) tumour.add(`${x[i]}_${y[i]}`); });
if (labels) labels.forEach((label, i) => edges.push(label === 1 && [[-1, 0], [1, 0], [0, -1], [0, 1]].map(
    ([dx, dy]) => !tumour.has(`${x[i] + dx * side}_${y[i] + dy * side}`))));

function paintTruth(context, i, x0, y0, x1, y1) {
    if (!edges[i]) return;
    const thick = Math.max(2, Math.min(4, (x1 - x0) / 12)) * Math.max(1, window.devicePixelRatio);
    const sides = [[x0, y0, thick, y1 - y0], [x1 - thick, y0, thick, y1 - y0],
        [x0, y0, x1 - x0, thick], [x0, y1 - thick, x1 - x0, thick]];
    context.fillStyle = data.truthColour;
    sides.forEach((box, k) => { if (edges[i][k]) context.fillRect(...box); });
}

const isOn = name => byId(`show-${name}`).checked;

function shown() {
    const steps = isOn("scores") ? [paintScore] : [];
    if (isOn("outlines")) steps.push(paintOutline);
    if (labels && isOn("truth")) steps.push(paintTruth);
    return steps;
}

const colouring = new Painted({ pane: pane("colours", 300), className: "colours" });

/* Which patch is where. */

const cells = new Map();
for (let i = 0; i < n; i++) {
    const key = `${Math.floor(x[i] / side)}_${Math.floor(y[i] / side)}`;
    cells.has(key) ? cells.get(key).push(i) : cells.set(key, [i]);
}

function patchAt(latlng) {  // where patches overlap, the last one is seen
    const px = latlng.lng, py = -latlng.lat, column = Math.floor(px / side), row = Math.floor(py / side);
    let found = -1;
    for (const c of [column - 1, column])
        for (const r of [row - 1, row])
            for (const i of cells.get(`${c}_${r}`) || [])
                if (x[i] <= px && px < x[i] + side && y[i] <= py && py < y[i] + side) found = Math.max(found, i);
    return found;
}

const said = { "-1": "unknown", 0: "normal", 1: "tumour" };

function describe(i) {
    const lines = [`patch ${i}, x ${x[i]}, y ${y[i]}`];
    for (const name of names) lines.push(`${name}: ${short(data.scores[name][i])}`);
    if (labels) lines.push(`label: ${said[labels[i]]}`);
    return lines;
}

const tip = L.tooltip({ direction: "right", offset: [14, 0], opacity: 1, className: "tip" });
let hovered = -1;

function hover(i, latlng) {
    if (i < 0) tip.remove();
    else {
        if (i !== hovered) {
            const box = document.createElement("div");
            box.textContent = describe(i).join("\n");
            tip.setContent(box);
        }
        tip.setLatLng(latlng).addTo(map);
    }
    hovered = i;
}

let mark = null;

function choose(i) {
    if (mark) mark.remove();
    mark = L.rectangle(boxOf(i), { color: "#c2185b", weight: 3, fill: false, interactive: false, className: "mark" });
    mark.addTo(map);
    byId("where").replaceChildren(...describe(i).flatMap(line => [line, document.createElement("br")]));
    for (const button of document.querySelectorAll(".lists button"))
        button.setAttribute("aria-current", String(Number(button.dataset.patch) === i));
}

const boxOf = i => L.latLngBounds(at(x[i], y[i]), at(x[i] + side, y[i] + side));
const zoomOf = i => Math.min(map.getMaxZoom(), map.getBoundsZoom(boxOf(i)));

function goTo(i) {
    choose(i);
    map.setView(boxOf(i).getCenter(), zoomOf(i));
}

if (n) {
    map.on("mousemove", event => hover(patchAt(event.latlng), event.latlng));
    map.on("mouseout movestart zoomstart", () => hover(-1));
    map.on("click", event => {
        const i = patchAt(event.latlng);
        if (i >= 0) map.getZoom() < zoomOf(i) - 0.3 ? goTo(i) : choose(i);
    });
}

/* Controls. */

function list(id, order) {
    byId(id).replaceChildren(...order.map(i => {
        const item = document.createElement("li"), button = document.createElement("button");
        const value = document.createElement("span");
        value.textContent = told(score[i]);
        button.append(`${i}`, value);
        button.dataset.patch = i;
        button.setAttribute("aria-label", `go to patch ${i}, score ${told(score[i])}`);
        button.onclick = () => goTo(i);
        item.append(button);
        return item;
    }));
}

function showScore() {
    const name = byId("score").value;
    score = data.scores[name];
    [low, high] = data.ends[name];
    colours = data.colours[low < 0 ? "signed" : "plain"];
    byId("bar").style.background = `linear-gradient(to right, ${colours.map(c => "#" + c).join(",")})`;
    byId("low").textContent = told(low);
    byId("high").textContent = told(high);
    const order = [...score.keys()].sort((a, b) => score[b] - score[a]), few = Math.min(8, Math.ceil(n / 2));
    list("highest", order.slice(0, few));
    list("lowest", order.slice(few).slice(-few).reverse());
    showThreshold();
}

function showThreshold() {
    const share = Number(byId("threshold").value);
    least = share === 0 ? -Infinity : low + share * (high - low);
    byId("least").textContent = told(low + share * (high - low));
    colouring.again();
}

function showOpacity() {
    opacity = Number(byId("opacity").value);
    colouring.again();
    byId("opaque").textContent = `${Math.round(100 * opacity)} %`;
}

if (n) {
    for (const name of names) byId("score").append(new Option(name, name));
    byId("score").onchange = showScore;
    byId("threshold").oninput = showThreshold;
    byId("opacity").oninput = showOpacity;
    for (const name of ["scores", "truth", "outlines"]) byId(`show-${name}`).onchange = () => colouring.again();
    if (!labels) byId("show-truth").closest("label").hidden = true;
    showScore();
    showOpacity();
    colouring.addTo(map);
} else byId("of-patches").hidden = true;

/* Corners of the picture: scale bar, and where one is. */

const Corner = L.Control.extend({ onAdd() { return this.options.box; } });

function corner(position, className) {
    const box = L.DomUtil.create("div", className);
    new Corner({ position, box }).addTo(map);
    return box;
}

const scale = corner("bottomleft", "on-map scale"), words = document.createElement("span"), line = document.createElement("i");
scale.append(words, line);

function drawScale() {
    const unit = data.mpp || 1, onePixel = unit / 2 ** map.getZoom(), most = 130 * onePixel;
    const power = 10 ** Math.floor(Math.log10(most)), length = [5, 2, 1].map(k => k * power).find(l => l <= most);
    const text = data.mpp ? (length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`) : `${length} pixels of level 0`;
    words.textContent = data.mpp ? `${text} · ${short(onePixel)} µm per pixel` : text;
    line.style.width = `${length / onePixel}px`;
}

const mini = corner("bottomright", "on-map mini"), frame = document.createElement("div"), picture = new Image();
const shrink = (map.getSize().x < 500 ? 84 : 130) / Math.max(width, height);
mini.setAttribute("aria-hidden", "true");
Object.assign(picture, { src: data.overview, alt: "", width: Math.round(width * shrink), height: Math.round(height * shrink) });
mini.append(picture, frame);
L.DomEvent.disableClickPropagation(mini);

function drawFrame() {
    const seen = map.getBounds(), left = Math.max(0, seen.getWest()), top = Math.max(0, -seen.getNorth());
    const right = Math.min(width, seen.getEast()), bottom = Math.min(height, -seen.getSouth());
    Object.assign(frame.style, {
        left: `${left * shrink}px`, top: `${top * shrink}px`,
        width: `${Math.max(0, right - left) * shrink}px`, height: `${Math.max(0, bottom - top) * shrink}px`,
    });
}

function moveTo(event) {
    const box = picture.getBoundingClientRect();
    map.panTo(at((event.clientX - box.left) / shrink, (event.clientY - box.top) / shrink), { animate: false });
}

mini.onpointerdown = event => { mini.setPointerCapture(event.pointerId); event.preventDefault(); moveTo(event); };
mini.onpointermove = event => { if (event.buttons) moveTo(event); };

/* Size, keys, and the wheel, which in a frame belongs to the page around it until the slide is clicked on. */

function fit() {
    map.setMinZoom(Math.min(map.getMaxZoom(), map.getBoundsZoom(whole)) - 0.5);
}

map.fitBounds(whole, { animate: false });
fit();
map.on("resize", fit);
map.on("move zoom viewreset", () => { drawScale(); drawFrame(); });
drawScale();
drawFrame();

const box = map.getContainer();
box.addEventListener("keydown", event => {
    if (event.key === " ") { box.classList.add("bare"); event.preventDefault(); }
    if (event.key === "0") map.fitBounds(whole);
});
box.addEventListener("keyup", event => { if (event.key === " ") box.classList.remove("bare"); });
if (framed) {
    box.addEventListener("pointerdown", () => map.scrollWheelZoom.enable());
    box.addEventListener("focus", () => map.scrollWheelZoom.enable());
    box.addEventListener("mouseleave", () => map.scrollWheelZoom.disable());
    byId("in-frame").hidden = false;
}
window.slideMap = map;

/* Light or dark, as the page around it is: a website, JupyterLab, Colab, VS Code. */

const root = document.documentElement;
const wear = word => { root.dataset.theme = (/light|dark/.exec(word) || [""])[0]; };

function follow(host) {
    const { dataset: ofBody } = host.body, lab = { true: "light", false: "dark" }[ofBody.jpThemeLight];
    wear(host.documentElement.dataset.theme || host.documentElement.getAttribute("theme") || lab || ofBody.vscodeThemeKind);
}

if (framed) {
    addEventListener("message", event => { if (event.source === parent && event.data.theme) wear(event.data.theme); });
    try {
        const host = parent.document, attributeFilter = ["data-theme", "theme", "data-jp-theme-light", "data-vscode-theme-kind"];
        for (const part of [host.documentElement, host.body])
            new MutationObserver(() => follow(host)).observe(part, { attributeFilter });
        follow(host);
    } catch { /* it may not look around itself: the page around it can send a message */ }
}
})();
