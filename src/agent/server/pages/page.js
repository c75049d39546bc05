for (const time of document.querySelectorAll("time"))
  time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "long", timeStyle: "short" });
const copy = document.getElementById("copy");
if (copy) {
  const link = document.getElementById("link"), copied = document.getElementById("copied");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    let done = true;
    // Without TLS a browser has no clipboard.
    try { await navigator.clipboard.writeText(link.value); }
    catch { link.focus(); link.select(); done = document.execCommand("copy"); }
    copied.textContent = done ? "Copied." : "The link is selected: copy it.";
  });
}
