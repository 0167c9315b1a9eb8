import { Hono } from 'hono';
import { ApiError } from '../../../shared/contract/errors.ts';
import { EvalCompareRequest } from '../../../shared/contract/evalCompare.ts';
import { reportJson } from '../../eval/report/build.ts';
import { NotComparable } from '../../eval/report/compare.ts';
import { renderComparisonHtml } from '../../eval/report/html/compare.ts';
import type { AppContext } from '../app.ts';
import { compareEvalRuns } from '../compare-runs.ts';
import type { SignedEnv } from '../require-signature.ts';

/** `POST /v1/compare-runs`: two runs of evaluations, as JSON or a page. Needs no model, but the edge that has the items. */
export function compareRoutes({ edge }: Pick<AppContext, 'edge'>): Hono<SignedEnv> {
  const app = new Hono<SignedEnv>();
  app.post('/v1/compare-runs', async (c) => {
    if (edge === null) throw new ApiError('not_found', 'This backend runs without an edge and knows no runs.');
    const asked = EvalCompareRequest.parse(JSON.parse(new TextDecoder().decode(c.get('body'))));
    try {
      const comparison = await compareEvalRuns(edge, asked, c.req.raw.signal);
      if (asked.format === 'json') return c.body(reportJson(comparison), 200, { 'content-type': 'application/json' });
      return c.html(renderComparisonHtml(comparison, new Map()));
    } catch (error) {
      if (!(error instanceof NotComparable)) throw error;
      const remedy = asked.force ? '' : ' `force=true` compares what they share.';
      throw new ApiError('invalid_value', `compare: ${error.message}${remedy}`, { param: 'compare' });
    }
  });
  return app;
}
