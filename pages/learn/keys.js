// What uses the keys itself once it has the focus, and what of it is typed into.
const CONTROL = "input, textarea, [role=slider], [role=radiogroup] *, [role=listbox] *";
const TYPED = "textarea, input[type=text]:not([role=combobox][aria-expanded=false]), input[type=number]";
// What the Escape key closes first.
const OPEN = "[role=dialog], [role=listbox], [data-testid=stPopoverBody], [aria-label^='Close fullscreen']";
const STEPS = { ArrowLeft: -1, PageUp: -1, ArrowRight: 1, PageDown: 1 };

// A sum, not single steps: the server reads only the newest value of several that come while it draws.
let moved = 0;
let pointed = false;
let present = false;
let send = null;

function mine(key, target) {
  if (!target.matches(CONTROL)) return true;
  return present && (key.startsWith("Page") || (pointed && !target.matches(TYPED)));
}

function press(event) {
  const { key, target } = event;
  if (key === "Tab") pointed = false;
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (key === "Escape" && present && !document.querySelector(OPEN)) return send.setTriggerValue("left", true);
  if (!(key in STEPS) || !mine(key, target)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (!event.repeat) send.setStateValue("moved", (moved += STEPS[key]));
}

function point() {
  pointed = true;
}

export default function (component) {
  send = component;
  present = component.data.present;
  // Before the controls: they would keep the keys for themselves. Adding the same listener again changes nothing.
  window.addEventListener("keydown", press, true);
  window.addEventListener("pointerdown", point, true);
  return () => {
    window.removeEventListener("keydown", press, true);
    window.removeEventListener("pointerdown", point, true);
  };
}
