// Search shows the beginning of a page; buttons and menus of the theme are not part of what a page says.
document.addEventListener("DOMContentLoaded", () => {
  // The theme's arrows that open a part of the menu have a picture and no name.
  document.querySelectorAll("nav summary").forEach((s) => s.setAttribute("aria-label", "Show or hide the pages below"));
  if (typeof Search === "undefined") return;
  const original = Search.htmlToText;
  const foreign = ".bd-header-article, .bd-sidebar-secondary, .bd-footer, .prev-next-footer, dialog, button, #searchbox, .toctree-wrapper";
  Search.htmlToText = (text, anchor) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    page.querySelectorAll(foreign).forEach((part) => part.remove());
    return original(page.documentElement.outerHTML, anchor);
  };
});
