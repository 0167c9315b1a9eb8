import { Hono } from 'hono';
import { ApiError } from '../../../shared/contract/errors.ts';
import { EvalCompareRequest } from '../../../shared/contract/evalCompare.ts';
import { reportJson } from '../../eval/report/build.ts';
import { NotComparable } from '../../eval/report/compare.ts';
import { renderComparisonHtml } from '../../eval/report/html/compare.ts';
import { Turnstile } from '../../eval/run/turnstile.ts';
import type { AppContext } from '../app.ts';
import { comparedPictures, compareEvalRuns } from '../compare-runs.ts';
import type { SignedEnv } from '../require-signature.ts';

/** Comparisons that are made or wait here. */
const MAX_WAITING = 8;

/** `POST /v1/compare-runs`: two runs of evaluations, as JSON or a page. Needs no model, but the edge that has the items. */
export function compareRoutes({ edge }: Pick<AppContext, 'edge'>): Hono<SignedEnv> {
  const app = new Hono<SignedEnv>();
  // Two runs' answers are in memory meanwhile.
  const one = new Turnstile(1);
  let waiting = 0;
  app.post('/v1/compare-runs', async (c) => {
    if (edge === null) throw new ApiError('not_found', 'This backend runs without an edge and knows no runs.');
    if (waiting >= MAX_WAITING)
      throw new ApiError('overloaded', `This backend has ${waiting} comparisons to make; try again in a second.`);
    const asked = EvalCompareRequest.parse(JSON.parse(new TextDecoder().decode(c.get('body'))));
    waiting++;
    await one.enter();
    try {
      const comparison = await compareEvalRuns(edge, asked, c.req.raw.signal);
      if (asked.format === 'json') return c.body(reportJson(comparison), 200, { 'content-type': 'application/json' });
      const pictures = await comparedPictures(edge, asked, comparison, c.req.raw.signal);
      return c.html(renderComparisonHtml(comparison, pictures));
    } catch (error) {
      if (!(error instanceof NotComparable)) throw error;
      const remedy = asked.force ? '' : ' `force=true` compares what they share.';
      throw new ApiError('invalid_value', `compare: ${error.message}${remedy}`, { param: 'compare' });
    } finally {
      one.leave();
      waiting--;
    }
  });
  return app;
}
