// Filters, sortable tables and charts of the report page. Loads nothing.
(() => {
  "use strict";

  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const form = document.querySelector("form.filters");
  const facets = form ? [...new Set([...form.elements].map((e) => e.name).filter(Boolean))] : [];
  const studies = [...document.querySelectorAll(".study")];
  const charts = [...document.querySelectorAll(".chart")];
  const SEPARATOR = "|"; // between several values of one facet, as in reports/markup.py

  // Filters. Nothing chosen of a facet shows all of it; what lacks a facet is not filtered by it.

  let chosen = new Map(); // facet -> set of values

  const shows = (tags) =>
    [...chosen].every(([facet, values]) => !(facet in tags) || tags[facet].split(SEPARATOR).some((v) => values.has(v)));

  function filter() {
    chosen = new Map();
    if (form) {
      for (const [facet, value] of new FormData(form)) {
        chosen.set(facet, (chosen.get(facet) ?? new Set()).add(value));
      }
    }
    const tagged = facets.map((facet) => `[data-${facet}]`).join();
    if (tagged) {
      for (const element of document.querySelectorAll(tagged)) element.hidden = !shows(element.dataset);
    }
    for (const chart of charts) {
      const frame = chart.closest(".panel, figure");
      frame.hidden = !shows(frame.dataset) || !hasTraces(chart);
    }
    const visible = studies.filter((study) => !study.hidden);
    if (form) form.querySelector("output").textContent = `${visible.length} of ${studies.length} studies`;
    if (chosen.size && visible.length === 1) unfold(visible[0]);
    for (const chart of charts) if (chart.data) draw(chart);
  }

  const hasTraces = (chart) => figures[chart.id].data.some((trace) => trace.meta && shows(trace.meta));

  const unfold = (study) => study.querySelectorAll(":scope > details").forEach((details) => (details.open = true));

  // The address holds what is chosen, and the study that a link led to: "#shape=16 × 64&pass=bwd&at=study-3".

  function write(at) {
    const state = new URLSearchParams(form ? new FormData(form) : undefined);
    if (at) state.set("at", at);
    history.replaceState(null, "", `#${state}`);
  }

  function read() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const box of form?.querySelectorAll("input") ?? []) box.checked = state.getAll(box.name).includes(box.value);
    filter();
    const study = document.getElementById(state.get("at") ?? "");
    if (study) {
      unfold(study);
      study.scrollIntoView();
    }
  }

  form?.addEventListener("change", () => (filter(), write()));
  form?.addEventListener("reset", () => setTimeout(() => (filter(), write())));
  form?.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", read);
  document.addEventListener("click", (event) => {
    const id = event.target.closest("a[href^='#study-']")?.getAttribute("href").slice(1);
    if (id) {
      event.preventDefault();
      write(id);
      read();
    }
  });

  // Sorting by a column: numbers as numbers, gaps last, a third click restores the order of the report.

  const UNITS = { K: 1024, M: 1024 ** 2 };

  function key(cell) {
    const text = (cell.querySelector("a") ?? cell).firstChild?.textContent.trim() ?? "";
    const number = text.match(/^([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)([KM]\b)?/);
    if (number) return Number(number[1].replaceAll(",", "")) * (UNITS[number[2]] ?? 1);
    return text === "–" ? "" : text;
  }

  function compare(a, b) {
    if (a === "" || b === "") return 0;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sort(header) {
    const table = header.closest("table");
    const body = table.tBodies[0];
    table.unsorted ??= [...body.rows];
    const next = { none: "ascending", ascending: "descending" }[header.getAttribute("aria-sort") ?? "none"];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    let rows = table.unsorted;
    if (next) {
      header.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const keyed = rows.map((row) => [key(row.cells[header.cellIndex]), row]);
      keyed.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
      rows = keyed.map(([, row]) => row);
    }
    body.append(...rows);
  }

  for (const header of document.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }

  // Charts, drawn when they come into view.

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const PRINTED = { width: 325, height: 290 }; // two beside each other on A4 and Letter
  let printing = false;

  // What a figure does not say itself, in the colours of the page as it is now.
  function template() {
    const style = getComputedStyle(root);
    const [page, ink, faint, rule] = ["--page", "--ink", "--faint", "--rule"].map((name) => style.getPropertyValue(name).trim());
    const axis = {
      automargin: true, zeroline: false, showline: true, linecolor: faint, gridcolor: rule,
      ticks: "outside", ticklen: 4, tickcolor: faint, tickfont: { color: faint }, title: { standoff: 8 },
    };
    return {
      layout: {
        font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif", size: printing ? 9.5 : 12, color: ink },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: [ink],
        xaxis: { ...axis, showgrid: false }, yaxis: axis, margin: { l: 8, r: 14, t: 10, b: 8 },
        hovermode: "closest", hoverlabel: { bgcolor: page, bordercolor: faint, font: { color: ink }, align: "left" },
        legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", tracegroupgap: 0, traceorder: "normal" },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: faint, activecolor: ink },
        dragmode: touch.matches ? false : "zoom",
      },
    };
  }

  function draw(chart) {
    const figure = figures[chart.id];
    const data = chart.data ?? figure.data;
    for (const trace of data) {
      if (!shows(trace.meta ?? {})) trace.visible = false;
      else if (trace.visible === false) trace.visible = true;
    }
    const layout = { ...figure.layout, template: template(), ...(printing ? PRINTED : { autosize: true }) };
    if (layout.meta?.lines) closeGaps(data, layout);
    const buttons = touch.matches ? false : "hover";
    const config = { responsive: true, displaylogo: false, displayModeBar: buttons, modeBarButtons: [["toImage", "resetScale2d"]] };
    Plotly.react(chart, data, layout, config);
  }

  // One trace a row, with an annotation each: number those that are shown, and name each group once in the legend.
  function closeGaps(data, layout) {
    const shown = data.filter((trace) => trace.visible !== false);
    shown.forEach((trace, row) => {
      trace.y = [row];
      trace.showlegend = shown.findIndex((other) => other.legendgroup === trace.legendgroup) === row;
    });
    layout.annotations = layout.annotations.map((note, i) => ({ ...note, y: data[i].y[0], visible: shown.includes(data[i]) }));
    layout.yaxis = { ...layout.yaxis, range: [shown.length - 0.5, -0.9] };
    layout.height = 110 + (22 + 16 * layout.meta.lines) * Math.max(shown.length, 1);
    if (printing) layout.width = 2 * PRINTED.width;
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.data) draw(target);
    }
  }, { rootMargin: "600px" });
  charts.forEach((chart) => observer.observe(chart));

  const redraw = () => charts.filter((chart) => chart.data).forEach(draw);
  dark.addEventListener("change", redraw);
  // What was drawn while it was folded away had no width to go by.
  document.addEventListener("toggle", (event) => charts.forEach((c) => c.data && event.target.contains(c) && draw(c)), true);

  // Print what the filters show, whole: everything unfolded and drawn, in the colours of paper.

  let folded = [];
  window.addEventListener("beforeprint", () => {
    printing = true;
    root.classList.add("printing");
    folded = [...document.querySelectorAll("main details:not([open])")];
    folded.forEach((details) => (details.open = true));
    charts.filter((chart) => chart.offsetParent).forEach(draw);
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    root.classList.remove("printing");
    folded.forEach((details) => (details.open = false));
    redraw();
  });

  if (form) {
    form.hidden = false;
    form.querySelector("details").open = matchMedia("(min-width: 60rem)").matches;
  }
  read();
})();
