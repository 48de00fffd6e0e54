// Runs before the first paint: says that there is script, and brings back the chosen theme.
document.documentElement.classList.add("js");
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is closed to this page; the system's theme is right then.
}
