"""A check of the colors of a page, to be evaluated in a browser."""

# Texts whose color and background differ too little (WCAG AA: 4.5), as "ratio: text".
LOW_CONTRAST = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((x, i) => a * x + (1 - a) * below[i]);
  const background = (e) => {
    if (!e) return [255, 255, 255];
    return over(parse(getComputedStyle(e).backgroundColor), background(e.parentElement));
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((x) => (x <= 10.3 ? x / 3294.6 : ((x / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].filter((x) => x.nodeType === 3).map((x) => x.data).join("").trim();
    if (!text || !e.checkVisibility() || e.tagName === "OPTION") continue;
    const behind = background(e);
    const lights = [over(parse(getComputedStyle(e).color), behind), behind].map(luminance).sort((a, b) => a - b);
    const ratio = (lights[1] + 0.05) / (lights[0] + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${text}`);
  }
  return found;
}"""
