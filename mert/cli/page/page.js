// Playheads follow the player of their track, and a click on a picture plays from there.
function mertTrack(node) {
  return node instanceof Element ? node.closest(".mert-track") : null;
}

function mertShow(audio) {
  const track = mertTrack(audio);
  if (!track) return;
  const share = 100 * Math.min(1, audio.currentTime / Number(track.dataset.seconds));
  for (const head of track.querySelectorAll(".mert-playhead")) {
    if (head.classList.contains("mert-across")) head.style.bottom = share + "%";
    else head.style.left = share + "%";
  }
}

for (const event of ["timeupdate", "seeked"]) {
  document.addEventListener(event, (sent) => mertShow(sent.target), true); // neither event bubbles
}

document.addEventListener("click", (sent) => {
  const picture = sent.target instanceof Element ? sent.target.closest(".mert-picture") : null;
  const track = picture && mertTrack(picture);
  if (!track) return;
  const box = picture.querySelector("img").getBoundingClientRect();
  const audio = track.querySelector("audio");
  audio.currentTime = ((sent.clientX - box.left) / box.width) * Number(track.dataset.seconds);
  mertShow(audio);
});
