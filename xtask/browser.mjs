// browser.mjs ADDRESS FOLDER FOTA: opens the screens of a running demo as a person would, then those
// of two servers of its own, which FOTA serves, and checks the acceptance criteria of the dashboard by
// their names (docs/dashboard.md). Screenshots go to FOLDER. Run by `cargo xtask browser`.
import { Tests } from './browser/tests.mjs';
import { live, demo } from './browser/demo.mjs';
import { own } from './browser/own.mjs';
import { plan } from './browser/plan.mjs';

const [address, folder, fota] = process.argv.slice(2);
const tests = await Tests.begin(folder);
try {
  await live(tests, address);
  await demo(tests, address);
  await own(tests, fota);
  await plan(tests, fota);
} catch (error) {
  tests.check(false, String(error?.stack ?? error));
}
await tests.end();
