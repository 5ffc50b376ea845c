// Measures the study in each frame, for test_page.py. A frame is a page in one width and scheme.

const rgb = (text) => text.match(/[\d.]+/g).map(Number);
const box = (node) => node.getBoundingClientRect();

function luminance(color) {
  const linear = (value) => (value <= 10.3 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(color[0]) + 0.7152 * linear(color[1]) + 0.0722 * linear(color[2]);
}

function background(node) {
  for (let at = node; at; at = at.parentElement) {
    const color = rgb(getComputedStyle(at).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
}

function contrast(node) {
  const colors = [rgb(getComputedStyle(node).color), background(node)];
  const lights = colors.map(luminance).sort((left, right) => left - right);
  return (lights[1] + 0.05) / (lights[0] + 0.05);
}

function textBox(node) {
  const range = node.ownerDocument.createRange();
  range.selectNodeContents(node);
  return range.getBoundingClientRect();
}

function overlap(one, other) {
  const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
  return wide > 1 && high > 1;
}

// The name, the numbers and the axis of a row of a plot.
function overlaps(row) {
  const parts = row.querySelectorAll(":scope > :first-child, .value:not(:empty), .track span");
  const boxes = [...parts].map(textBox);
  return boxes.some((one, at) => boxes.slice(at + 1).some((other) => overlap(one, other)));
}

function drawn(bar) {
  const [inner, outer] = [box(bar), box(bar.parentElement)];
  const inside = inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
  return inside && inner.width > 1 && inner.height > 1;
}

function measure(frame) {
  const page = frame.contentDocument;
  const all = (query) => [...page.querySelectorAll(query)];
  const textOf = (node) => node.textContent;
  page.documentElement.style.colorScheme = frame.dataset.scheme;
  const speaks = (node) => [...node.childNodes].some((part) => part.nodeType === 3 && part.data.trim());
  const texts = all("main *").filter(speaks);
  const scrolled = (node) => node.closest(".box");
  const result = {
    wider: page.documentElement.scrollWidth - frame.clientWidth,
    sentence: textOf(all("h1")[0]),
    bottom: box(all("h1")[0]).bottom,
    intervals: all(".interval").length,
    drawn: all(".interval").every(drawn),
    planned: all(".planned").length,
    cells: all(".heat td.cell").length,
    announced: all("td.announced").length,
    contrast: Math.min(...texts.map(contrast)),
    overlap: all(".plot li").filter(overlaps).map(textOf),
    outside: texts.filter((node) => !scrolled(node) && box(node).right > frame.clientWidth).map(textOf),
    scripts: all("script").length,
    text: page.body.innerText,
  };
  all("th button")[0]?.click();
  return { ...result, sorted: all(".tall tbody th").map(textOf) };
}

addEventListener("load", () => {
  const results = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("result").textContent = JSON.stringify(results);
});
