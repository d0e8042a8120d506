// Installed in the page as window.lab: what the tests ask of JupyterLab and of plotly, as plain JSON.
(() => {
  const panel = () => window.jupyterapp.shell.currentWidget;
  const kernel = () => panel().context.sessionContext.session.kernel;
  const cells = () => panel().content.widgets;
  const isCode = (cell) => cell.model.type === "code";
  const outputs = (i) => (isCode(cells()[i]) ? cells()[i].model.outputs.toJSON() : []);

  // plotly 7 carries arrays as {bdata, dtype, shape} and holds them as typed arrays: lists for everyone.
  const ARRAYS = {
    f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array,
    i2: Int16Array, u2: Uint16Array, i1: Int8Array, u1: Uint8Array,
  };
  const plain = (value) => {
    if (value && value.bdata !== undefined) {
      const raw = value.bdata;
      const bytes = typeof raw === "string" ? Uint8Array.from(atob(raw), (c) => c.charCodeAt(0)).buffer : raw;
      const flat = Array.from(new ARRAYS[value.dtype](bytes), plain);
      const shape = value.shape ? String(value.shape).split(",").map(Number) : [];
      if (shape.length !== 2) return flat;
      return Array.from({ length: shape[0] }, (_, r) => flat.slice(r * shape[1], (r + 1) * shape[1]));
    }
    if (ArrayBuffer.isView(value) || Array.isArray(value)) return Array.from(value, plain);
    if (typeof value === "number") return Number.isFinite(value) ? value : null;
    return value === undefined ? null : value;
  };
  // An untitled axis bears plotly's placeholder, which no reader sees.
  const title = (holder) => {
    const text = (holder && holder.title && holder.title.text) || null;
    return text && text.startsWith("Click to enter") ? null : text;
  };
  const trace = (t) => {
    const state = { name: t.name ?? null, type: t.type, visible: t.visible, xaxis: t.xaxis, yaxis: t.yaxis };
    for (const key of ["x", "y", "z", "text"]) state[key] = plain(t[key]);
    state.color = plain(t.marker ? t.marker.color : undefined);
    return state;
  };
  const plot = (div) => {
    const layout = div._fullLayout;
    const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
    return {
      title: title(layout),
      axes: Object.fromEntries(axes.map((key) => [key, { title: title(layout[key]), range: plain(layout[key].range) }])),
      annotations: (layout.annotations || []).map((note) => note.text),
      traces: div._fullData.map(trace),
      width: layout.width,
      height: layout.height,
    };
  };

  const pending = new Set();  // cells asked for and not finished: a kernel may look idle before it hears of them
  let timing = null;
  let watched = null;
  const lab = (window.lab = {
    command(id, args) {
      const started = {};
      pending.add(started);
      window.jupyterapp.commands.execute(id, args || {})
        .catch((error) => console.error(`${id}: ${error}`))
        .finally(() => pending.delete(started));
    },
    runCell(i) {
      panel().content.deselectAll();
      panel().content.activeCellIndex = i;
      lab.command("notebook:run-cell");
    },
    addCell(source) {
      const notebook = panel().content.model.sharedModel;
      if (notebook.cells.length === 1 && notebook.cells[0].getSource() === "") notebook.deleteCell(0);
      notebook.addCell({ cell_type: "code", source, metadata: {}, outputs: [] });
      return notebook.cells.length - 1;
    },
    path: () => panel().context.path,
    ready() {
      const here = window.jupyterapp && panel();
      const context = here && here.content && here.context && here.context.sessionContext;
      return Boolean(context && here.isVisible && here.context.isReady && context.isReady && lab.idle());
    },
    revert: () => panel().context.revert(),
    idle() {
      const session = panel().context.sessionContext.session;
      return pending.size === 0 && Boolean(session && session.kernel) && session.kernel.status === "idle";
    },
    sources: () => cells().map((cell) => [cell.model.type, cell.model.sharedModel.getSource()]),
    errors: () => cells().flatMap((_, i) => outputs(i)
      .filter((out) => out.output_type === "error")
      .map((out) => ({ cell: i, name: out.ename, value: out.evalue, traceback: out.traceback.join("\n") }))),
    plots: (root) => Array.from(root.querySelectorAll(".js-plotly-plot"))
      .filter((div) => div._fullLayout && div._fullData).map(plot),
    restart() {
      pending.clear();
      return kernel().restart();
    },
    interrupt: () => kernel().interrupt(),
    shutDown: () => panel().context.sessionContext.shutdown(),
    async evaluate(code) {
      const text = [];
      let failed = null;
      const future = kernel().requestExecute({ code, store_history: false, stop_on_error: false });
      future.onIOPub = ({ header, content }) => {
        if (header.msg_type === "stream") text.push(content.text);
        if (header.msg_type === "execute_result") text.push(content.data["text/plain"]);
        if (header.msg_type === "error") failed = content.traceback.join("\n");
      };
      await future.done;
      return { text: text.join(""), failed };
    },
    // Time from a key or mouse event to the last redraw it causes, the frame that shows it included.
    arm(div, quiet) {
      const mine = (timing = { start: null, last: null, redraws: 0, quiet });
      const begin = () => { mine.start ??= performance.now(); };
      const drawn = () => {
        if (mine.start === null) return;
        mine.redraws += 1;
        requestAnimationFrame(() => { mine.last = performance.now(); });
      };
      for (const kind of ["keydown", "pointerdown"]) window.addEventListener(kind, begin, { capture: true, once: true });
      if (watched) watched[0].removeListener("plotly_afterplot", watched[1]);
      div.on("plotly_afterplot", drawn);
      watched = [div, drawn];
    },
    settled: () => timing.last !== null && performance.now() - timing.last > timing.quiet,
    elapsed: () => timing.last - timing.start,
    // Resolves when the page has not changed for `quiet` ms, or after `atMost` ms: live figures never rest.
    still: (quiet, atMost) => new Promise((resolve) => {
      let changed = performance.now();
      const observer = new MutationObserver(() => { changed = performance.now(); });
      observer.observe(panel().node, { subtree: true, childList: true, attributes: true, characterData: true });
      const began = changed;
      const timer = setInterval(() => {
        const now = performance.now();
        if (now - changed < quiet && now - began < atMost) return;
        clearInterval(timer);
        observer.disconnect();
        resolve(now - began);
      }, 20);
    }),
    // Scrolls until the point `offset` px below the top of cell i is at the top; says what is in view then.
    async reveal(i, offset) {
      const outer = panel().content.node.querySelector(".jp-WindowedPanel-outer") || panel().content.node;
      const top = () => cells()[i].node.getBoundingClientRect().top - outer.getBoundingClientRect().top;
      for (let tries = 0; tries < 3; tries += 1) {  // heights are estimates until a cell has been in view
        outer.scrollTop += top() + offset;
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
      }
      const foot = outer.getBoundingClientRect().bottom;
      const bottoms = cells().map((cell) => cell.node.getBoundingClientRect().bottom);
      let next = i;
      while (next < bottoms.length && bottoms[next] <= foot + 1) next += 1;
      return { next, height: outer.clientHeight, count: bottoms.length };
    },
  });
})();
