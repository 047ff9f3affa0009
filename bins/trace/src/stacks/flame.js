
(function () {
  var side = 10, letter = 7;
  var calls = Array.prototype.map.call(document.querySelectorAll("g.c"), function (g) {
    var box = g.querySelector("rect");
    var number = function (key) { return parseFloat(box.getAttribute(key)); };
    return { g: g, box: box, text: g.querySelector("text"), name: g.getAttribute("data-n"),
             x: number("x"), y: number("y"), width: number("width") };
  });
  var room = calls.length ? calls[0].width : 0;
  function show(call, x, width) {
    call.box.setAttribute("x", x);
    call.box.setAttribute("width", width);
    call.text.setAttribute("x", x + 3);
    var most = Math.floor((width - 6) / letter), name = call.name;
    call.text.textContent = name.length <= most ? name : most < 3 ? "" : name.slice(0, most - 2) + "..";
  }
  function fill(chosen) {
    var scale = room / chosen.width, end = chosen.x + chosen.width, slack = 0.02;
    calls.forEach(function (call) {
      var carries = call.y > chosen.y && call.x <= chosen.x + slack && call.x + call.width >= end - slack;
      var inside = call.y <= chosen.y && call.x >= chosen.x - slack && call.x + call.width <= end + slack;
      call.g.style.display = carries || inside ? "" : "none";
      call.g.style.opacity = carries ? 0.5 : 1;
      if (carries) show(call, side, room);
      if (inside) show(call, side + (call.x - chosen.x) * scale, call.width * scale);
    });
  }
  calls.forEach(function (call) {
    call.g.style.cursor = "pointer";
    call.g.addEventListener("click", function () { fill(call); });
  });
})();
