// Loaded before Omniboard: it would listen on every interface, and would outlive whoever started it.
"use strict";
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, Number(port), "127.0.0.1", ...rest);
};
// The other end of standard input is held by `lolm dashboard`, and closes however that one ends.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
