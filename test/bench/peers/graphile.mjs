// Delivers the jobs of a graphile-worker queue to URL at its best settings, and prints
// how many a second from the start of the worker until every completion is on record.
//
//   node graphile.mjs CONNECTION URL JOBS
import { run } from 'graphile-worker';
import pg from 'pg';
import { Pool } from 'undici';

const [connectionString, url, jobs] = process.argv.slice(2);
const pool = new Pool(url, { connections: 100, pipelining: 1 });
const body = JSON.stringify({ name: 'x'.repeat(1024 - 12) });
const total = Number(jobs);
let finished = 0;
let allFinished;
const all = new Promise((resolve) => { allFinished = resolve; });

async function deliver() {
  const answer = await pool.request({
    path: '/', method: 'POST', body, headers: { 'content-type': 'application/json' },
  });
  await answer.body.dump();
  if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode}`);
  finished += 1;
  if (finished === total) allFinished();
}

const began = performance.now();
const runner = await run({
  connectionString,
  noHandleSignals: true,
  taskList: { deliver },
  logger: undefined,
  preset: {
    worker: {
      connectionString,
      maxPoolSize: 10,
      concurrentJobs: 100,
      localQueue: { size: 2000 },
      completeJobBatchDelay: 50,
      failJobBatchDelay: 50,
      pollInterval: 100,
    },
  },
});
await all;
const client = new pg.Client({ connectionString });
await client.connect();
for (;;) {
  const { rows } = await client.query('SELECT count(*)::int AS left FROM graphile_worker._private_jobs');
  if (rows[0].left === 0) break;
}
console.log(`rate ${Math.round(total / ((performance.now() - began) / 1000))}`);
await client.end();
await runner.stop();
await pool.close();
