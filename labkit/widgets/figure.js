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

// In a message "_undefined_" stands for a property that a trace keeps. Plotly's view knows that, but its model would take
// it for a value, and a view that is drawn later would lack the property.
function clean(part) {
  if (!part || typeof part !== "object" || ArrayBuffer.isView(part)) return;
  for (const key of Object.keys(part)) {
    if (part[key] === "_undefined_") part[key] = undefined;
    else clean(part[key]);
  }
}

export default () => {
  let loaded;
  return {
    // Returns at once, or anywidget takes the model for broken. Plotly hears no message before it is there, so these are
    // kept for it.
    initialize({ model }) {
      const kept = [];
      let widget = null;
      for (const name of MESSAGES) {
        model.on(`change:${name}`, () => {
          const message = model.get(name);
          clean(message);
          if (message && !widget) kept.push([name, message]);
        });
      }
      loaded = loadOnce(model).then((create) => {
        widget = create();
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
      const figure = document.createElement("div"); // wider than el where the page is narrow; el scrolls it
      el.classList.add("labkit-figure");
      el.replaceChildren(figure);
      return widget.render({ model, el: figure });
    },
  };
};
