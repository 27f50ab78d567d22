// The dialog of one example, or of one row of the support: its card.

let openedCard = null; // what is open: its row, and whether that is of the support
const trail = []; // what was open before, where a neighbour was followed
let openedPlace = -1; // where it was in the table, from which a decision may have taken it

const openExample = (row) => openCard({ row, ofSupport: false });

// follow: whether what is open now is come back to.
function openCard(next, follow = false) {
  if (!follow) trail.length = 0;
  else trail.push(openedCard);
  showCard(next);
}

function back() {
  if (trail.length) showCard(trail.pop());
}

async function showCard(next) {
  const dialog = byId("detail");
  openedCard = next;
  openedPlace = next.ofSupport ? -1 : tableOrder.indexOf(next.row);
  const content = next.ofSupport ? await supportCard(next.row) : exampleCard(next.row);
  if (openedCard !== next) return;
  dialog.replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("detail-title").focus();
}

function barOf(title, ...buttons) {
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => byId("detail").close());
  const backward = trail.length ? [dialogButton("Back", back)] : [];
  return make("div", { class: "bar" }, make("h2", { id: "detail-title", tabindex: -1 }, title), ...backward, ...buttons, close);
}

function dialogButton(text, onClick, enabled = true) {
  const element = make("button", { type: "button" }, text);
  element.disabled = !enabled;
  element.addEventListener("click", onClick);
  return element;
}

// The example before or after in the order of the table, or undefined.
function beside(step) {
  if (openedCard.ofSupport || openedPlace < 0) return undefined;
  const at = tableOrder.indexOf(openedCard.row);
  return at < 0 ? tableOrder[step > 0 ? openedPlace : openedPlace - 1] : tableOrder[at + step];
}

function go(step) {
  const to = beside(step);
  if (to !== undefined) openExample(to);
}

// What decisions and the set change of an open card, with the focus where it is.
function refreshCard() {
  const dialog = byId("detail");
  const [facts, group] = [".facts", ".decide"].map((part) => dialog.querySelector(part));
  if (!dialog.open || openedCard.ofSupport || !group) return;
  const controls = (of) => [...of.querySelectorAll("button, select")];
  const held = controls(group).indexOf(document.activeElement);
  const { row } = openedCard;
  const fresh = decisionOf(row);
  facts.replaceWith(factsOf(row));
  group.replaceWith(fresh);
  controls(fresh)[held]?.focus();
}

function factsOf(row) {
  const facts = make("dl", { class: "facts" });
  for (const column of columns.values()) {
    if (!column.title) continue;
    facts.append(make("dt", {}, column.title), make("dd", {}, displayText(column, row) || "–"));
  }
  if (settlesAt(row)) facts.append(make("dt", {}, "Settles at"), make("dd", {}, settlesAt(row)));
  return facts;
}

function exampleCard(row) {
  const facts = factsOf(row);
  const body = make("div", { class: "body" });
  if (hasImages) body.append(imageOf(row, captionOf(row).join(", "), { original: true }));
  body.append(facts);
  if (columns.has("depth")) {
    const shade = shadesOf(row);
    body.append(make("div", { class: "way" }, stripOf(row, shade), stripCaption()), votesOf(row, shade));
  }
  if (canDecide()) facts.after(decisionOf(row));
  const previous = dialogButton("Previous", () => go(-1), beside(-1) !== undefined);
  const following = dialogButton("Next", () => go(1), beside(1) !== undefined);
  return [barOf(exampleName(row), previous, following), body];
}

async function supportCard(row) {
  const { classOf, nameOf } = await support();
  const facts = make("dl", { class: "facts" }, make("dt", {}, "Label"), make("dd", {}, className(classOf(row))),
    make("dt", {}, "Part"), make("dd", {}, "of the support, whose rows vote"));
  const body = make("div", { class: "body" });
  if (albums.support) body.append(imageOf(row, className(classOf(row)), { album: albums.support, original: true }));
  body.append(facts);
  return [barOf(nameOf(row)), body];
}

function handleCardKey(event) {
  if (!byId("detail").open || event.target.closest("input, select")) return;
  const { row, ofSupport } = openedCard;
  const known = { ArrowLeft: () => go(-1), ArrowRight: () => go(1), Backspace: back }[event.key];
  if (known && !event.target.closest(".strip, .wide")) known();
  else if (ofSupport) return;
  else if (event.key === "s" && !event.ctrlKey && !event.metaKey) toggleCard(row);
  else if (!decideByKey(event, row)) return;
  event.preventDefault();
}

document.addEventListener("keydown", handleCardKey);
