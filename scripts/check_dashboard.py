#!/usr/bin/env python3
"""Looks at a dashboard in headless Chromium, as a reader would: pages load from disk and from `cusae serve`, search
finds, sorting sorts, links and keys work, a prompt shows its features and is steered, a telephone's screen is wide enough,
nothing is written to the console as an error.

check_dashboard.py --cusae PROGRAM [--screenshots DIR]   (selenium from PyPI; Chromium and its driver)
"""
import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

QUIET = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1400"]


def browser(dark: bool) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for flag in QUIET + (["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []):
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


class Reader:
    def __init__(self, driver, url: str, screenshots):
        self.driver, self.url, self.screenshots = driver, url, screenshots

    def open(self, hash: str, title: str) -> None:
        self.driver.get(f"{self.url}{hash}")
        WebDriverWait(self.driver, 20).until(lambda d: d.title.startswith(title))

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def picture(self, name: str) -> None:
        if self.screenshots:
            self.driver.save_screenshot(str(self.screenshots / f"{name}.png"))

    def check_console(self) -> None:
        errors = [entry for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert not errors, errors


def overview(reader: Reader) -> None:
    reader.open("", "Overview")
    assert "Tokens read" in reader.texts("dt"), reader.texts("dt")
    assert len(reader.driver.find_elements(By.CSS_SELECTOR, "svg[role=img][aria-label]")) >= 3
    reader.picture("overview")


def listing(reader: Reader) -> None:
    reader.open("#/list", "List")
    features = [int(text) for text in reader.texts("tbody td:first-child")]
    assert features and features == sorted(features)

    def column(n: int) -> list[float]:
        return [float(text.rstrip(" %").replace(",", "")) for text in reader.texts(f"tbody td:nth-child({n})")]

    head = reader.driver.find_element(By.XPATH, "//th/button[text()='Max']")
    head.click()
    assert column(4) == sorted(column(4), reverse=True), column(4)
    assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    head.send_keys(Keys.ENTER)
    assert column(4) == sorted(column(4)), "a second time turns the order round, by the keyboard too"
    search = reader.driver.find_element(By.ID, "search")
    search.send_keys(str(features[-1]))
    assert [int(text) for text in reader.texts("tbody td:first-child")] == [features[-1]]
    search.clear()
    token = reader.texts("tbody td:last-child .chip")[0].strip("·")
    search.send_keys(token)
    assert reader.texts("tbody tr") and all(token.lower() in text.lower() for text in reader.texts("tbody tr"))
    search.clear()
    search.send_keys("no token is like this")
    assert reader.texts("[role=status]") == ["0 features"]
    search.clear()
    search.send_keys(" " + Keys.BACKSPACE)
    reader.picture("list")


def feature(reader: Reader) -> None:
    reader.open("#/list", "List")
    reader.driver.find_element(By.XPATH, "//th/button[text()='Density']").click()
    number = reader.texts("tbody td:first-child")[0]
    reader.driver.find_element(By.LINK_TEXT, number).click()
    WebDriverWait(reader.driver, 20).until(lambda d: d.title.startswith(f"Feature {number}"))
    assert "Where it fires most" in reader.texts("h3")
    values = [float(text.replace(",", "")) for text in reader.texts("h3 + .context .value")]
    assert values and reader.driver.find_elements(By.CSS_SELECTOR, ".context .token.center[title]")
    reader.picture("feature")
    box = reader.driver.find_element(By.ID, "number")
    box.send_keys("1" + Keys.ENTER)
    WebDriverWait(reader.driver, 20).until(lambda d: d.title.startswith("Feature 1 "))
    reader.driver.back()
    WebDriverWait(reader.driver, 20).until(lambda d: d.title.startswith(f"Feature {number} "))
    reader.open("#/feature/999999", "No such feature")


def text(reader: Reader) -> None:
    reader.open("#/text", "Text")
    tokens = reader.driver.find_elements(By.CSS_SELECTOR, ".words .token")
    tokens[3].click()
    by_click = reader.texts("[role=status] a")
    assert by_click and by_click[0].startswith("Feature ")
    tokens[4].send_keys(Keys.ENTER)
    assert reader.texts("[role=status] a") != by_click
    reader.picture("text")


def narrow(reader: Reader) -> None:
    """On a telephone nothing is wider than the screen, but a table scrolls in itself."""
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    reader.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    pages = [("", "Overview"), ("#/list", "List"), ("#/feature/1", "Feature 1 "), ("#/text", "Text"), ("#/try", "Try")]
    for hash, title in pages:
        reader.open(hash, title)
        width = reader.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, f"{title} is {width} wide"
        reader.picture(f"narrow-{title.split()[0].lower()}")
    reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def wait(reader: Reader, until) -> None:
    WebDriverWait(reader.driver, 60).until(lambda _: until())


def trying(reader: Reader) -> None:
    """Only on a page of `cusae serve`: a prompt, its features, text with one of them changed."""
    reader.open("#/try", "Try")
    find = reader.driver.find_element
    find(By.ID, "prompt").send_keys("The king went to the castle and")
    find(By.CSS_SELECTOR, "#ask button").click()
    wait(reader, lambda: len(reader.texts("#found .words .token")) > 5)
    reader.driver.find_elements(By.CSS_SELECTOR, "#found .words .token")[3].click()
    assert reader.texts("#found [role=status] a")[0].startswith("Feature ")
    find(By.CSS_SELECTOR, "#found button.small").click()
    amount = find(By.CSS_SELECTOR, "[aria-label=Amount]")
    amount.clear()
    amount.send_keys("20")
    find(By.CSS_SELECTOR, "#steer button.main").click()
    wait(reader, lambda: "done" in reader.texts("#steer [role=status]"))
    without, steered = reader.texts("#without")[0], reader.texts("#steered")[0]
    assert without.startswith("The king went to the castle and") and len(without) > 60 and without != steered
    reader.picture("try")
    number = find(By.CSS_SELECTOR, "[aria-label=Feature]")
    number.clear()
    number.send_keys("100000" + Keys.ENTER)
    wait(reader, lambda: reader.texts("[role=alert]")[0].startswith("Feature 100000: this SAE has features 0 to"))


def serve(args, run: str, page: Path) -> tuple[subprocess.Popen, str]:
    command = [args.cusae, "serve", "--sae", run, "--page", str(page), "--port", "0", "--json", "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = ""
    while "}" not in lines:
        lines += server.stdout.readline() or sys.exit("cusae serve ended")
    return server, json.loads(lines)["url"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cusae", required=True)
    parser.add_argument("--screenshots", type=Path)
    args = parser.parse_args()
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run, page = f"{folder}/run", Path(folder) / "page"
        train = "train --architecture topk --k 16 --d-sae 512 --training-tokens 100000 --log-every 10 --quiet --out"
        subprocess.run([args.cusae, *train.split(), run], check=True, stdout=subprocess.DEVNULL)
        dashboard = ["dashboard", "--sae", run, "--max-tokens", "20000", "--quiet", "--out", str(page)]
        subprocess.run([args.cusae, *dashboard], check=True, stdout=subprocess.DEVNULL)
        server, url = serve(args, run, page)
        from_disk = (page / "index.html").as_uri()
        for dark in (False, True):
            shots = args.screenshots / ("dark" if dark else "light") if args.screenshots else None
            if shots:
                shots.mkdir(exist_ok=True)
            driver = browser(dark)
            try:
                for at, checks in [(from_disk, [overview, listing, feature, text]), (url, [overview, feature, trying, narrow])]:
                    reader = Reader(driver, at, shots)
                    for check in checks:
                        check(reader)
                        reader.check_console()
                    shown = driver.find_element(By.CSS_SELECTOR, "[data-page=try]").is_displayed()
                    assert shown == (at == url), "the page to try things is there where it can work"
            finally:
                driver.quit()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
    print("dashboard: all pages work in Chromium from disk and from cusae serve, light and dark")


if __name__ == "__main__":
    main()
