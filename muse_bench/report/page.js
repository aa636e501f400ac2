// Expressions are interpreted (ast), so that the page's policy need not allow code from text.
for (const figure of document.querySelectorAll("figure")) {
  const place = figure.querySelector(".chart");
  const specification = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(place, specification, { mode: "vega-lite", renderer: "svg", actions: false, ast: true }).catch((error) => {
    place.textContent = `This chart could not be drawn: ${error.message}`;
  });
}
