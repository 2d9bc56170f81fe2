const slides = [...document.querySelectorAll("section")], stage = document.getElementById("stage");
const talk = document.getElementById("talk"), clock = document.getElementById("clock");
let now = Math.max(0, Math.min(slides.length - 1, (parseInt(location.hash.slice(1)) || 1) - 1)), speaker = null, ticking = 0;
function notes(i) { const aside = slides[i] && slides[i].querySelector("aside"); return aside ? aside.innerHTML : ""; }
function show(i) {
  now = Math.max(0, Math.min(slides.length - 1, i));
  slides.forEach((s, k) => s.classList.toggle("now", k === now));
  history.replaceState(null, "", "#" + (now + 1));
  talk.innerHTML = notes(now);
  if (speaker && !speaker.closed) fill();
}
function fit() {
  const scale = Math.min(innerWidth / 1280, innerHeight / 720);
  stage.style.transform = "scale(" + scale + ") translate(-50%, -50%)";
}
function fill() {
  const next = slides[now + 1];
  speaker.document.body.innerHTML = "<h2>" + (now + 1) + ". " + slides[now].querySelector("h1").innerHTML + "</h2>" + notes(now)
    + "<hr><p><b>Next:</b> " + (next ? next.querySelector("h1").innerHTML : "the end") + "</p>";
}
function openSpeaker() {
  speaker = window.open("", "speaker", "width=760,height=620");
  if (!speaker) { talk.classList.add("on"); return; }  // the browser blocks windows: notes below the slide
  speaker.document.title = "Speaker's notes";
  speaker.document.body.style.cssText = "font:22px/1.45 sans-serif;margin:24px";
  speaker.onkeydown = key;
  fill();
}
function timer(minutes) {
  if (ticking) { clearInterval(ticking); ticking = 0; clock.textContent = ""; return; }
  const end = Date.now() + minutes * 60000;
  const tick = () => {
    const left = Math.max(0, Math.round((end - Date.now()) / 1000));
    clock.textContent = Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0");
  };
  tick(); ticking = setInterval(tick, 500);
}
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const k = event.key.toLowerCase();
  if (["arrowright", "arrowdown", "pagedown", " ", "enter"].includes(k)) show(now + 1);
  else if (["arrowleft", "arrowup", "pageup", "backspace"].includes(k)) show(now - 1);
  else if (k === "home") show(0);
  else if (k === "end") show(slides.length - 1);
  else if (k === "n") talk.classList.toggle("on");
  else if (k === "s") openSpeaker();
  else if (k === "t") timer(parseInt(slides[now].dataset.minutes) || 5);
  else if (k === "b" || k === ".") document.body.classList.toggle("black");
  else if (k === "o") document.body.classList.toggle("all");
  else if (k === "f") document.documentElement.requestFullscreen();
  else return;
  event.preventDefault();
}
addEventListener("keydown", key);
addEventListener("resize", fit);
stage.addEventListener("click", event => {
  const i = slides.indexOf(event.target.closest("section"));
  if (document.body.classList.contains("all")) { document.body.classList.remove("all"); show(i); }
  else show(now + (event.clientX < innerWidth / 3 ? -1 : 1));
});
fit(); show(now);
