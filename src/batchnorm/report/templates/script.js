// Draws the charts at the width there is, and unpacks results.json. The page is readable without.
(function () {
  "use strict";

  const LEFT = 74; // room for the labels of a vertical axis
  const GAP = 18;
  const NARROWEST = 250;
  const WIDEST = 600;

  const font = getComputedStyle(document.body).fontFamily;
  const text = { labelColor: "var(--ink-2)", titleColor: "var(--ink)", labelFont: font, titleFont: font };
  const config = {
    background: null,
    font: font,
    view: { stroke: null },
    axis: {
      ...text,
      labelFontSize: 12,
      titleFontSize: 12.5,
      titleFontWeight: 500,
      titlePadding: 8,
      domainColor: "var(--rule)",
      tickColor: "var(--rule)",
      gridColor: "var(--grid)",
    },
    header: { ...text, labelColor: "var(--ink)", labelFontSize: 13, labelFontWeight: 600, labelLimit: 420 },
    legend: {
      ...text,
      labelColor: "var(--ink)",
      orient: "top",
      labelFontSize: 13,
      labelLimit: 320,
      symbolSize: 90,
      symbolOpacity: 1,
      symbolStrokeWidth: 0,
      columnPadding: 22,
      offset: 14,
    },
    facet: { spacing: { column: GAP, row: 24 } },
  };

  function rowsOf(figure) {
    const rows = [];
    for (const [name, column] of Object.entries(figure.columns)) {
      const values = column.words ? column.at.map((i) => column.words[i]) : column;
      values.forEach((value, i) => ((rows[i] ??= {})[name] = value));
    }
    return rows;
  }

  function layout(room, panels) {
    const columns = Math.max(1, Math.min(panels, 3, Math.floor((room + GAP) / (NARROWEST + LEFT + GAP))));
    const even = panels === 4 && columns === 3 ? 2 : columns;
    const width = Math.floor((room - (even - 1) * GAP) / even) - LEFT;
    return { columns: even, width: Math.max(180, Math.min(width, WIDEST)) };
  }

  function sized(figure, { columns, width }) {
    const spec = structuredClone(figure.spec);
    spec.columns = columns;
    spec.spec.width = width;
    spec.datasets = { rows: figure.rows };
    if (columns === 1) {
      spec.config = { legend: { columns: 1 } };
    }
    return spec;
  }

  const options = { mode: "vega-lite", renderer: "svg", actions: false, config: config };

  async function draw(plot, figure) {
    const room = plot.clientWidth;
    const shape = layout(room, Number(plot.dataset.panels));
    const stage = document.createElement("div");
    plot.replaceChildren(stage);
    let embedded = await vegaEmbed(stage, sized(figure, shape), options);
    const excess = stage.querySelector("svg").getBoundingClientRect().width - room;
    if (excess > 0 && shape.width > 180) {
      shape.width = Math.max(180, shape.width - Math.ceil(excess / shape.columns));
      embedded.finalize();
      embedded = await vegaEmbed(stage, sized(figure, shape), options);
    }
    plot.style.minHeight = "";
    return embedded;
  }

  // Keep the room of every chart before the first is drawn, so that nothing jumps.
  function reserve(plot, figure) {
    const panels = Number(plot.dataset.panels);
    const rows = Math.ceil(panels / layout(plot.clientWidth, panels).columns);
    plot.style.minHeight = rows * (figure.spec.spec.height + 86) + 40 + "px";
  }

  async function drawAll(figures, drawn) {
    const plots = [...document.querySelectorAll(".plot")];
    plots.forEach((plot) => reserve(plot, figures[plot.dataset.figure]));
    for (const plot of plots) {
      const name = plot.dataset.figure;
      drawn.get(name)?.finalize();
      drawn.set(name, await draw(plot, figures[name]));
      await new Promise((done) => setTimeout(done)); // let the page breathe
    }
    document.documentElement.dataset.charts = "drawn";
  }

  function redrawOnResize(figures, drawn) {
    let width = innerWidth;
    let timer = 0;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (innerWidth !== width) {
          width = innerWidth;
          drawAll(figures, drawn);
        }
      }, 200);
    });
  }

  async function inflate(link) {
    const packed = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const blob = new Blob([await new Response(stream).arrayBuffer()], { type: "application/json" });
    const file = document.createElement("a");
    file.href = URL.createObjectURL(blob);
    file.download = link.dataset.inflate;
    file.click();
    setTimeout(() => URL.revokeObjectURL(file.href), 1000);
  }

  for (const link of document.querySelectorAll("a[data-inflate]")) {
    link.addEventListener("click", (event) => {
      if (typeof DecompressionStream === "function") {
        event.preventDefault();
        inflate(link);
      }
    });
  }

  if (typeof vegaEmbed === "function") {
    const figures = JSON.parse(document.getElementById("figures").textContent);
    Object.values(figures).forEach((figure) => (figure.rows = rowsOf(figure)));
    const drawn = new Map();
    drawAll(figures, drawn);
    redrawOnResize(figures, drawn);
  } else {
    document.documentElement.dataset.charts = "none";
  }
})();
