// Swagger UI over /openapi.json. Where the build has none, the page says so.
"use strict";
if (typeof SwaggerUIBundle === "undefined") {
  document.getElementById("missing").hidden = false;
} else {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#explorer",
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    validatorUrl: null, // nothing leaves this server
  });
}
