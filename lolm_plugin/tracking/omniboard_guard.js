// Loaded before Omniboard, in its process. Left to itself, Omniboard listens on every interface, moves to the next port
// when its own is taken, answers every origin (Access-Control-Allow-Origin: *), changes and deletes runs for whoever
// asks, and outlives whoever started it. What a request may do is decided here, before any code of Omniboard sees it.
"use strict";
const http = require("http");
const net = require("net");

const MAY_EDIT = process.env.LOLM_DASHBOARD_EDIT === "1";
const TOKEN = process.env.LOLM_DASHBOARD_TOKEN; // tells whoever started this process that it is this one that answers
const PORT_TAKEN = 98; // exit codes, known to omniboard.py
const PORT_REFUSED = 97;
const READS = ["GET", "HEAD"];

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  // Before Omniboard's own listener, which would try the next port.
  this.on("error", (error) => process.exit(error.code === "EADDRINUSE" ? PORT_TAKEN : PORT_REFUSED));
  return listen.call(this, Number(port), "127.0.0.1", ...rest);
};

// Why a request is refused, or nothing. A page of another origin reaches this port through the user's browser, which
// says where the request comes from; a name that was made to lead to 127.0.0.1 (DNS rebinding) is in Host.
function refusal(request) {
  const { host = "", origin, "sec-fetch-site": site } = request.headers;
  if (!/^(127\.0\.0\.1|localhost)(:\d{1,5})?$/i.test(host)) return "this Host is not 127.0.0.1 or localhost";
  if (origin !== undefined && origin !== `http://${host}`) return "this Origin is another page's";
  if (site !== undefined && site !== "same-origin" && site !== "none") return "this request comes from another page";
  if (READS.includes(request.method)) return "";
  if (!MAY_EDIT) return "this dashboard is read-only; start it with lolm dashboard --allow-edit to change runs";
  if (!["POST", "PUT", "DELETE"].includes(request.method)) return "this method is not used";
  return origin === undefined ? "a change has to come from the dashboard's own page" : "";
}

function guarded(request, response) {
  const setHeader = response.setHeader;
  response.setHeader = function (name, value) {
    return /^access-control-/i.test(name) ? this : setHeader.call(this, name, value);
  };
  response.setHeader("X-Lolm-Dashboard", TOKEN);
  response.setHeader("X-Content-Type-Options", "nosniff");
  response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
  response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
  response.setHeader("Referrer-Policy", "no-referrer");
  // Files of a record may be pages themselves: opened, they run no script and are of no origin.
  const isData = /\/api\//i.test(request.url);
  response.setHeader("Content-Security-Policy", isData ? "sandbox; default-src 'none'" : "frame-ancestors 'none'");
  const why = refusal(request);
  if (!why) return true;
  response.writeHead(403, { "Content-Type": "application/json", Connection: "close" });
  response.end(JSON.stringify({ message: `Refused: ${why}.` }));
  return false;
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, ...rest) {
  if (event === "request" && !guarded(...rest)) return true;
  if (event === "upgrade" || event === "connect") {
    rest[1].destroy(); // Omniboard has neither
    return true;
  }
  return emit.call(this, event, ...rest);
};

// The other end of standard input is held by `lolm dashboard`, and closes however that one ends.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
