// For keyboards and screen readers: a table that is wider than the page scrolls with the keys, and the buttons of each code
// block have a name.
function describe() {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table) => {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
  });
  document.querySelectorAll(".md-code__nav").forEach((buttons, place) => {
    buttons.setAttribute("aria-label", `Code block ${place + 1}`);
  });
}
new MutationObserver(describe).observe(document.body, { childList: true, subtree: true });
window.addEventListener("resize", describe);
describe();
