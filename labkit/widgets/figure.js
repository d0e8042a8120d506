// A figure of plotly whose library a page loads once, for all figures; see figure.py.

const MESSAGES = [
  "addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate", "removeLayoutProps",
  "removeTraceProps",
].map((name) => `_py2js_${name}`);

async function load(model) {
  const library = await model.widget_manager.get_model(model.get("_library").slice("IPY_MODEL_".length));
  const address = URL.createObjectURL(new Blob([library.get("script")], { type: "text/javascript" }));
  try {
    return (await import(address)).default;
  } finally {
    URL.revokeObjectURL(address);
  }
}

function loadOnce(model) {
  window.labkitPlotly ??= load(model).catch((error) => {
    window.labkitPlotly = undefined; // the next figure tries again
    throw error;
  });
  return window.labkitPlotly;
}

export default () => {
  let loaded;
  return {
    // Returns at once, or anywidget takes the model for broken. Plotly hears no message before it is there, so these are
    // kept for it.
    initialize({ model }) {
      const kept = [];
      const listeners = MESSAGES.map((name) => [
        `change:${name}`,
        () => model.get(name) && kept.push([name, model.get(name)]),
      ]);
      for (const [event, listener] of listeners) model.on(event, listener);
      loaded = loadOnce(model).then((create) => {
        for (const [event, listener] of listeners) model.off(event, listener);
        const widget = create();
        widget.initialize({ model });
        for (const [name, message] of kept) {
          model.set(name, null); // or the same message again would be no change
          model.set(name, message);
          model.set(name, null);
        }
        return widget;
      });
      loaded.catch(() => {}); // render shows it
    },
    async render({ model, el }) {
      el.textContent = "Loading the plot library …";
      const widget = await loaded;
      el.textContent = "";
      return widget.render({ model, el });
    },
  };
};
