// The frames with a slide are as light or dark as the site. They hear it also where they may not look: from a file.
(() => {
  const root = document.documentElement;
  const tell = () => document.querySelectorAll("iframe").forEach((frame) => frame.contentWindow.postMessage({ theme: root.dataset.theme }, "*"));
  new MutationObserver(tell).observe(root, { attributeFilter: ["data-theme"] });
  addEventListener("load", tell, true); // of the page, and of each frame
})();
