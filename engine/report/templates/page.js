"use strict";
// Opens a picture's dialog as a modal one, with the picture, its control and the evidence laid on it, all shown large.
function figure(images, words) {
  const layers = document.createElement("div");
  layers.className = "layers";
  for (const image of images) {
    const copy = image.cloneNode();
    copy.loading = "eager";
    layers.append(copy);
  }
  const caption = document.createElement("figcaption");
  caption.textContent = words;
  const made = document.createElement("figure");
  made.append(layers, caption);
  return made;
}

function fill(dialog, link) {
  const large = dialog.querySelector(".large");
  const picture = link.querySelector("img.plain");
  if (large.childElementCount || !picture) return;
  const control = link.dataset.control && document.getElementById(link.dataset.control);
  const other = control && control.querySelector("img.plain");
  if (other) large.append(figure([other], `Compared with: ${other.alt}`));
  large.append(figure([picture], large.dataset.words));
  for (const layer of link.querySelectorAll("img.evidence")) large.append(figure([picture, layer], layer.alt));
}

for (const link of document.querySelectorAll("a.opens")) {
  const dialog = document.getElementById(link.hash.slice(1));
  const open = (event) => {
    event.preventDefault();
    fill(dialog, link);
    dialog.showModal();
  };
  link.addEventListener("click", open);
  link.addEventListener("keydown", (event) => {
    if (event.key === " ") open(event);
  });
  dialog.querySelector(".close").addEventListener("click", (event) => {
    event.preventDefault();
    dialog.close();
  });
  dialog.addEventListener("click", (event) => {
    // A click beside the sheet is on the dialog itself.
    if (event.target === dialog) dialog.close();
  });
}
