<?php

namespace App\Http\Controllers;

use App\Events\NamedEvent;
use App\Events\PlainEvent;
use Illuminate\Broadcasting\Channel;
use Illuminate\Http\Request;
use Illuminate\Routing\Controller;

class TestController extends Controller
{
    /**
     * Broadcasts whatever a test asks for, without signing in, as JSON:
     * {"channels": ["orders", "private-user.1", ...], "event": "order.shipped", "data": {...}};
     * without "event", PlainEvent is sent under its class name.
     */
    public function broadcast(Request $request)
    {
        $in = json_decode($request->getContent(), true) ?: [];
        $channels = array_map(function ($name) {
            return new Channel($name);
        }, (array) ($in['channels'] ?? []));

        broadcast(isset($in['event'])
            ? new NamedEvent($channels, $in['event'], (array) ($in['data'] ?? []))
            : new PlainEvent($channels, $in['data'] ?? null))->toOthers();

        return response()->json(['status' => 'ok']);
    }
}
